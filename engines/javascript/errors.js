'use strict';
// An error that the action didn't catch, in words for its author: what kind of end it is, one line, the trace.
//
// The trace shows the author's frames only, each with its source line: not the engine's, not node's own.

const fs = require('node:fs');
const { fileURLToPath } = require('node:url');
const { FRAME, isOfProgram, placeIn } = require('./frames');
const { cutMiddle, oneLine, shorten } = require('./text');
const { isError, toLogText } = require('./values');
const { FILE } = require('./source');

const MIB = 1024 * 1024;
const DEEPEST = 10; // causes of causes
const MAX_LINE = 200; // characters shown of a source line: a minified source is one, and a trace has it once a frame
const readFiles = new Map(); // their lines: a deep stack has the same files over and over

/** How an error ends the run: {kind, message, trace}. `limits` has the contract's keys, `lines` are the source's. */
function failureOf(error, limits, lines) {
  const [kind, message] = kindOf(error, limits);
  return { kind, message: message + placeOf(error), trace: cutMiddle(trace(error, lines, DEEPEST)) };
}

function kindOf(error, limits) {
  if (isOutOfMemory(error)) return ['out_of_memory', outOfMemory(limits)];
  if (isRefusedProcess(error)) return ['too_many_processes', `too many processes or threads: the limit is ${limits.tasks}`];
  return ['error', summary(error)];
}

function outOfMemory(limits) {
  const limit = Number.isInteger(limits.memory_bytes) ? `: the limit is ${Math.floor(limits.memory_bytes / MIB)} MiB` : '';
  return `out of memory${limit}; raise memory or use less`;
}

function isOutOfMemory(error) {
  const codes = ['ERR_WORKER_OUT_OF_MEMORY', 'ERR_MEMORY_ALLOCATION_FAILED', 'ENOMEM'];
  if (codes.includes(error?.code)) return true;
  return error instanceof RangeError && /allocation failed|could not allocate memory|out of memory/i.test(error.message);
}

/** A child or thread that the kernel refused. EAGAIN from anything else isn't that. */
function isRefusedProcess(error) {
  if (error?.code === 'ERR_WORKER_INIT_FAILED') return /EAGAIN/.test(error.message);
  return error?.code === 'EAGAIN' && /^(spawn|fork)/.test(String(error.syscall));
}

/** Type and message on one line. */
function summary(error) {
  return oneLine(headline(error));
}

function headline(error) {
  try {
    if (!isError(error)) return `uncaught ${toLogText(error)}`;
    const name = nameOf(error);
    const text = String(error.message);
    return text ? `${name}: ${text}` : name;
  } catch {
    return 'an error that could not be shown'; // the author's own getter or toString
  }
}

/** A class that didn't set a name is known by its own. */
function nameOf(error) {
  const own = error.constructor?.name;
  return error.name === 'Error' && typeof own === 'string' && own ? own : String(error.name);
}

/** " (line 3)": the innermost frame in the source, or where it doesn't compile. */
function placeOf(error) {
  const stack = stackOf(error);
  const place = compilerPlace(stack) ?? stack.map(placeIn).find((found) => found?.file === FILE);
  return place ? ` (line ${place.line})` : '';
}

/** A SyntaxError's stack begins with file and line, the line itself and the caret. */
function compilerPlace(stack) {
  const found = /^(.+):(\d+)$/.exec(stack[0] ?? '');
  return found && found[1] === FILE ? { file: FILE, line: Number(found[2]) } : undefined;
}

function stackOf(error) {
  try {
    return isError(error) && typeof error.stack === 'string' ? error.stack.split('\n') : [];
  } catch {
    return [];
  }
}

function trace(error, lines, depth) {
  const stack = stackOf(error);
  const compiler = compilerPlace(stack) ? stack.slice(0, 3) : [];
  const frames = stack.filter((line) => FRAME.test(line) && isOfUser(line));
  return [...compiler, headline(error), ...withSources(frames, lines), ...related(error, lines, depth)].join('\n');
}

/** What caused it, and the members of an AggregateError. */
function related(error, lines, depth) {
  if (!isError(error) || depth === 0) return [];
  const members = Array.isArray(error.errors) ? error.errors.map((member) => ['One of the errors', member]) : [];
  const cause = Object.hasOwn(error, 'cause') ? [['Caused by', error.cause]] : [];
  return [...members, ...cause].map(([word, other]) => `${word}: ${trace(other, lines, depth - 1)}`);
}

/** The source itself, what it made by eval, and modules that it wrote to its own /tmp. */
function isOfUser(frame) {
  if (isOfProgram(frame)) return false;
  const file = placeIn(frame)?.file ?? '';
  return file === FILE || file.startsWith('/tmp/') || file.startsWith('file:///tmp/') || frame.includes(`${FILE}:`);
}

/** Each frame with its source line; of a recursion the first, and how many more there are. */
function withSources(frames, lines) {
  const starts = [...frames.keys()].filter((at) => frames[at] !== frames[at - 1]);
  return starts.flatMap((start, index) => {
    const more = (starts[index + 1] ?? frames.length) - start - 1;
    return [...withSource(frames[start], lines), ...(more > 0 ? [`        … ${more} more of these`] : [])];
  });
}

function withSource(frame, lines) {
  const place = placeIn(frame);
  const text = place && lineOf(place, lines)?.trim();
  return text ? [frame, `        ${shorten(text, MAX_LINE)}`] : [frame];
}

function lineOf({ file, line }, lines) {
  if (file === FILE) return lines[line - 1];
  if (!readFiles.has(file)) readFiles.set(file, linesOf(file));
  return readFiles.get(file)[line - 1];
}

function linesOf(file) {
  try {
    const name = file.startsWith('file:') ? fileURLToPath(file) : file;
    return fs.readFileSync(name, 'utf8').split('\n');
  } catch {
    return []; // it is gone, or is none
  }
}

/** The line of the author's that led here. */
function placeOfCall() {
  return placeOf(new Error('here'));
}

module.exports = { failureOf, placeOfCall };
