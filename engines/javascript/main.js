'use strict';
// One process, one job: `node main.js JOB ANSWERS [READY]`, the descriptors of pipes. Loads and rehearses, says so on the third pipe to
// who waits for that, waits for its job, runs it.

// The heap has its limits by now. Node throws away what it brings of its own modules, compiled, while V8 has other flags than when
// that was made: without these lines each module that is loaded later costs the action some milliseconds. And the `resourceLimits`
// of a thread that an action starts would give way to the flags.
for (const flag of ['--max-old-space-size=0', '--max-semi-space-size=0']) setFlag(flag);

const fs = require('node:fs');
const Module = require('node:module');
const os = require('node:os');
const path = require('node:path');
const vm = require('node:vm');
require('node:stream');

const MAX_FRAMES = 100; // of an error's stack: with node's 10 the line of Run is soon missing
const loaded = new Map();
setFlag('--no-lazy'); // the engine's functions are compiled now, not when a call waits for them
const { Channel, CutError, readFrame } = load('./channel');
const { jobOf } = load('./job');
const { rehearse } = load('./rehearsal');
const { Run } = load('./run');
const { PATH } = load('./source');
const { Streams } = load('./streams');

setFlag('--lazy');

const [jobFd, answersFd, readyFd] = process.argv.slice(2).map(Number);

/** Where it can be, without the module `node:v8`, which is itself one that would be compiled first. */
function setFlag(flag) {
  let binding;
  try {
    binding = process.binding('v8');
  } catch {
    binding = require('node:v8');
  }
  binding.setFlagsFromString(flag);
}

/** What `require` does for files beside this one, without its search for them, which lasts longer than all the rest. */
function load(name) {
  if (!name.startsWith('./')) return require(name);
  if (!loaded.has(name)) {
    const module = { exports: {} };
    const filename = path.join(__dirname, `${name}.js`);
    loaded.set(name, module);
    const text = fs.readFileSync(filename, 'utf8');
    vm.compileFunction(text, ['module', 'require', '__dirname'], { filename })(module, load, __dirname);
  }
  return loaded.get(name).exports;
}

/** The process as an action is to find it. */
function tidy() {
  Error.stackTraceLimit = MAX_FRAMES;
  process.argv.splice(1, Infinity, PATH);
  process.execArgv.length = 0;
  for (const name of Object.keys(require.cache)) delete require.cache[name];
  if (os.cpus().length === 0) {
    const times = { user: 0, nice: 0, sys: 0, idle: 0, irq: 0 };
    os.cpus = () => Array.from({ length: os.availableParallelism() }, () => ({ model: 'unknown', speed: 0, times: { ...times } }));
  }
  Module.syncBuiltinESMExports();
}

/** null when there is none: the sandbox is retired, or its job was cut short. */
function awaitJob() {
  try {
    const frame = readFrame(jobFd);
    fs.closeSync(jobFd);
    return frame && jobOf(frame);
  } catch (error) {
    if (!(error instanceof CutError)) throw error;
    process.exitCode = 1;
    return null;
  }
}

async function main() {
  const channel = new Channel(answersFd);
  const streams = new Streams(channel);
  tidy();
  await rehearse(channel, streams);
  if (readyFd !== undefined) fs.closeSync(readyFd);
  const job = awaitJob();
  if (job === null) process.exit();
  channel.maxLogBytes = job.maxLogBytes;
  await new Run(job, channel, streams).start();
}

main();
