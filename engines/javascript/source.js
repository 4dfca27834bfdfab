'use strict';
// The action's source: compiled as CommonJS or as an ES module, whichever it is, and shown in traces without a file.

const Module = require('node:module');
const { pathToFileURL } = require('node:url');
const vm = require('node:vm');

const FILE = 'action.js'; // its name in traces
const PATH = '/tmp/action.js'; // __filename: no such file exists, but the folder does and is the run's own
const URL_OF_FILE = 'file:///tmp/action.js';
const MAY_DEFINE_RUN =
  /\bRun\b|\bmodule\s*\.\s*exports\b|\bexport\s*(?:default\b|\{[^}]*\bdefault\b|\*\s*as\s+default\b)/;
const OF_A_MODULE = [
  'Cannot use import statement outside a module',
  "Cannot use 'import.meta' outside a module",
  "Unexpected token 'export'",
  'await is only valid in async functions and the top level bodies of modules',
  'Unexpected reserved word', // for await
];
const WRAPPED = ['exports', 'require', 'module', '__filename', '__dirname']; // what CommonJS gives
const TAKE_RUN = '[].pop.call(arguments)(() => { try { return Run } catch {} });';
const CHECK_MS = 10_000;
const IS_NOT_THERE = /^(ERR_)?(MODULE_NOT_FOUND|UNKNOWN_BUILTIN_MODULE|PACKAGE_PATH_NOT_EXPORTED|INVALID_MODULE_SPECIFIER)$/;
const { bind } = Function.prototype; // an action may change the one it finds

/** A source as it is compiled: without an editor's byte-order mark, and a first line `#!…` is a comment. */
function readSource(bytes) {
  return bytes.toString('utf8').replace(/^\ufeff/, '').replace(/^#!/, '//');
}

/** False for what can't define `Run`, which is a plain program then; true may prove wrong when it has been executed. */
function mayDefineRun(source) {
  return MAY_DEFINE_RUN.test(source);
}

/**
 * Compiles; returns an async function that executes the top level and returns `Run`, or what else the source has there.
 * Throws SyntaxError. `isMain` is what `require.main === module` says.
 */
function compile(source, isMain) {
  const module = makeModule(isMain);
  try {
    const execute = compileCommonJs(source, module.require);
    return () => executeCommonJs(execute, module);
  } catch (error) {
    if (!OF_A_MODULE.includes(error.message) && !isAwaitAtTop(error, source)) throw error;
    return compileModule(source, module.require);
  }
}

/** `const a = await …`: the parser of scripts takes `await` for a name, and complains of what follows. */
function isAwaitAtTop(error, source) {
  if (!(error instanceof SyntaxError) || !/\bawait\b/.test(source)) return false;
  try {
    new vm.SourceTextModule(source, { identifier: FILE });
    return true;
  } catch {
    return false;
  }
}

/**
 * With a beginning that hands out what finds `Run`, which nothing outside could reach: one more argument is a function that takes
 * it. An end of ours would not be reached where the source returns before. The action doesn't see the beginning: its lines and
 * columns, its `arguments` and its "use strict" are as written.
 */
function compileCommonJs(source, require) {
  const begin = (isStrict(source) ? '"use strict";' : '') + TAKE_RUN;
  const importModuleDynamically = (specifier, _from, attributes) => load(specifier, require, attributes);
  const options = { filename: FILE, columnOffset: -begin.length, importModuleDynamically };
  try {
    return vm.compileFunction(begin + source, WRAPPED, options);
  } catch (error) {
    vm.compileFunction(source, WRAPPED, { filename: FILE }); // says what is wrong without our beginning
    throw error;
  }
}

/** As the parser sees it: only in strict mode `with` is an error. True for a source that is wrong in either mode. */
function isStrict(source) {
  if (!source.includes('use strict')) return false;
  try {
    vm.compileFunction(`${source}\nwith ({});`, WRAPPED);
    return false;
  } catch {
    return true;
  }
}

async function executeCommonJs(execute, { module, require }) {
  let findRun;
  const take = (find) => (findRun = find);
  await call(execute.bind(module.exports, module.exports, require, module, PATH, '/tmp'), take);
  module.loaded = true;
  const exported = module.exports;
  return methodRun(exported) ?? (typeof exported === 'function' ? exported : findRun());
}

/** The object's `Run`, which finds the object as its `this`. */
function methodRun(exported) {
  const run = exported?.Run;
  return typeof run === 'function' ? bind.call(run, exported) : run;
}

/**
 * What a function of the action's returns, awaited. It is called by a promise, so that a stack that the action prints has no
 * frame of ours; nor one of who waits for it, which V8 would find by `resolve` and `reject` themselves.
 */
function call(run, argument) {
  return new Promise((resolve, reject) => {
    const returned = Promise.resolve(argument).then(run);
    returned.then((value) => resolve(value), (error) => reject(error));
  });
}

function makeModule(isMain) {
  const module = new Module(PATH, null);
  module.filename = PATH;
  module.paths = Module._nodeModulePaths('/tmp');
  const require = Module.createRequire(PATH);
  process.mainModule = isMain ? module : undefined;
  require.main = process.mainModule;
  module.require = require;
  return { module, require };
}

function compileModule(source, require) {
  let local;
  const take = { set: (value) => (local = value), configurable: true };
  const importFrom = (specifier, _from, attributes) => load(specifier, require, attributes);
  const module = parseModule(`${source}\nimport.meta.Run = typeof Run === "undefined" ? undefined : Run;`, source, {
    identifier: FILE,
    initializeImportMeta: (meta) => {
      Object.assign(meta, { url: URL_OF_FILE, filename: PATH, dirname: '/tmp', resolve: (name) => locate(name, require) });
      Object.defineProperty(meta, 'Run', take);
    },
    importModuleDynamically: importFrom,
  });
  return async () => {
    await link(module, source, (specifier, from, { attributes, assert }) => importFrom(specifier, from, attributes ?? assert));
    await call(bind.call(module.evaluate, module));
    const { Run, default: main } = module.namespace;
    return Run ?? methodRun(main) ?? (typeof main === 'function' ? main : local);
  };
}

function parseModule(text, source, options) {
  try {
    return new vm.SourceTextModule(text, options);
  } catch (error) {
    throw withPlace(error, source);
  }
}

/** What isn't there is an error of the line that imports it, which node doesn't say of these modules. */
async function link(module, source, importFrom) {
  const at = async (specifier, ...rest) => {
    try {
      return await importFrom(specifier, ...rest);
    } catch (error) {
      throw IS_NOT_THERE.test(error?.code) ? withImport(error, source, specifier, '') : error;
    }
  };
  try {
    await module.link(at);
  } catch (error) {
    const [, specifier, name] = /'(.+)' does not provide an export named '(.+)'/.exec(error?.message) ?? [];
    throw specifier === undefined ? error : withImport(error, source, specifier, name);
  }
}

/** Of a statement of several lines, the one with the name that isn't exported. */
function withImport(error, source, specifier, name) {
  const found = new RegExp(`\\b(?:im|ex)port\\b[^;'"]*(["'])${literally(specifier)}\\1`).exec(source);
  if (found === null) return error;
  const within = name ? found[0].search(new RegExp(`(?<![\\w$])${literally(name)}(?![\\w$])`)) : 0;
  const before = source.slice(0, found.index + Math.max(within, 0)).split('\n');
  const text = source.split('\n')[before.length - 1].trimEnd();
  error.stack = [`${FILE}:${before.length}`, text, `${' '.repeat(before.at(-1).length)}^`, '', error.stack].join('\n');
  return error;
}

function literally(text) {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
}

/** This parser doesn't say where; the program `node --check` does. */
function withPlace(error, source) {
  const { execFileSync } = require('node:child_process'); // slow to load, and hardly ever used
  try {
    const options = { input: source, stdio: ['pipe', 'ignore', 'pipe'], timeout: CHECK_MS };
    execFileSync(process.execPath, ['--check', '--input-type=module', '-'], options);
  } catch (failed) {
    const [place, line, caret] = String(failed.stderr ?? '').split('\n');
    const number = /^\[stdin\]:(\d+)$/.exec(place);
    if (number) error.stack = [`${FILE}:${number[1]}`, line, caret, '', error.stack].join('\n');
  }
  return error;
}

/** What import gives: one of node's own modules, at once, or a file of the action's by way of node's loader, which is slower. */
async function load(specifier, require, attributes) {
  if (Module.isBuiltin(specifier)) return ownModule(specifier.replace(/^node:/, ''), specifier, require);
  const found = await importAsAction(locate(specifier, require), { with: attributes, assert: attributes }); // as node 18 says
  return synthetic(specifier, Object.keys(found), found);
}

/** `import()` as it is in the action's file, which node names as the importer of what can't be found; in stacks it is node's. */
function importerAt(path) {
  const module = new Module(path, null);
  module._compile('module.exports = (name, options) => import(name, options);\n//# sourceURL=node:internal/import', path);
  return module.exports;
}

const importAsAction = importerAt(PATH);
const ownModules = new Map();

function ownModule(name, specifier, require) {
  if (!ownModules.has(name)) {
    const exported = require(specifier);
    const names = Object.keys(exported).filter((key) => key !== 'default');
    ownModules.set(name, synthetic(specifier, ['default', ...names], { ...exported, default: exported }));
  }
  return ownModules.get(name);
}

/** A module that exports these values. */
async function synthetic(identifier, names, values) {
  const module = new vm.SyntheticModule(names, () => names.forEach((name) => module.setExport(name, values[name])), { identifier });
  await module.link(() => {});
  await module.evaluate();
  return module;
}

/** A URL for import(): relative ones are meant from /tmp. */
function locate(specifier, require) {
  if (Module.isBuiltin(specifier)) return specifier.replace(/^(?!node:)/, 'node:');
  if (/^[a-z][a-z0-9+.-]*:/i.test(specifier)) return specifier;
  if (/^\.{0,2}\//.test(specifier)) return new URL(specifier, URL_OF_FILE).href;
  return pathToFileURL(require.resolve(specifier)).href;
}

module.exports = { FILE, PATH, call, compile, mayDefineRun, readSource };
