'use strict';
// One run, from its job to its end. The server believes the exit status before it believes the channel, so the status says the
// same: 0 completed, 1 failed.

const { makeEngine } = require('./engine');
const { failureOf, placeOfCall } = require('./errors');
const { call, compile, mayDefineRun } = require('./source');
const { cut, encode } = require('./text');

const { listenerCount } = require('node:events').EventEmitter.prototype;
const UNSETTLED = 'it waits for a promise that nothing will settle any more';
const LEAVING = 0x5eed0000; // as in engines/spec.py
const { reallyExit, umask } = process;

class Run {
  /** Job: see job.js. */
  constructor(job, channel, streams) {
    this.job = job;
    this.channel = channel;
    this.streams = streams;
    this.lines = job.source.split(/\r\n|[\n\r\u2028\u2029]/);
    this.isPlain = !mayDefineRun(job.source);
    this.isExecuting = false;
    this.hasEnded = false;
  }

  async start() {
    this.watch();
    if (this.isPlain) {
      this.channel.send({ type: 'plain' });
      this.streams.pass();
    }
    this.isExecuting = true;
    try {
      await this.execute();
    } catch (error) {
      this.fail(error);
    }
  }

  async execute() {
    const { job, channel, streams } = this;
    const run = await compile(job.source, this.isPlain)();
    this.isExecuting = false;
    if (this.isPlain) return;
    if (typeof run !== 'function') {
      this.isPlain = true; // after all: its output, to the last, is the result
      return;
    }
    streams.collected();
    this.isExecuting = true;
    const engine = makeEngine(job, channel, (kind, message) => this.endRun(kind, message));
    refuseGenerator(await call(run, engine));
    await nextTurn(); // a rejection that nobody has taken is told after the turn in which it was made
    this.isExecuting = false;
    this.exitProcess();
  }

  /** By which listeners of the action's are called first. */
  exitProcess() {
    process.exit();
  }

  /** Every way out of the process. */
  watch() {
    process.reallyExit = (status) => this.exit(status ?? 0);
    const end = () => this.exit(process.exitCode ?? 0);
    process.on('beforeExit', () => {
      if (this.isExecuting) this.fail(new Error(UNSETTLED));
      process.off('exit', end);
      process.on('exit', end); // the last of them: the action's own may still log
    });
    this.onOwn('uncaughtException', (error) => this.fail(error));
    this.onOwn('unhandledRejection', (reason) => this.fail(reason));
  }

  /** Ours steps back where the action has a listener of its own. */
  onOwn(event, listener) {
    process.on(event, (...given) => {
      if (listenerCount.call(process, event) === 1) listener(...given);
    });
  }

  exit(status) {
    if (status !== 0) this.endFailed('error', `the action exited with status ${status}`);
    if (this.hasEnded) this.leave(status);
    if (this.isPlain && this.streams.printed) this.setPrinted(); // which may still fail the run
    this.hasEnded = true;
    this.streams.end();
    this.channel.send({ type: 'done', dropped: this.channel.dropped });
    this.leave(0);
  }

  /** What a source printed that turned out to have no `Run`. */
  setPrinted() {
    const set = makeEngine(this.job, this.channel, (kind, message) => this.endRun(kind, message)).result;
    set(this.streams.collected());
  }

  fail(error) {
    const failure = failureOf(error, this.job.limits, this.lines);
    this.logError(failure.trace);
    this.endFailed(failure.kind, failure.message);
  }

  /** Not an exception: an action's `catch` would take it. */
  endRun(kind, message) {
    this.logError(message + placeOfCall());
    this.endFailed(kind, message);
  }

  /**
   * Ends the process. Node's own end first ends its threads and gives back what the kernel takes anyway, which lasts as long as a
   * small action. So the appliance is told of it by a call that does nothing else, from which nobody returns; where there is nobody
   * to be told, it returns at once.
   */
  leave(status) {
    umask.call(process, LEAVING | (status & 0xff));
    reallyExit.call(process, status);
  }

  logError(text) {
    this.streams.end();
    this.channel.log('error', encode(cut(text)));
  }

  endFailed(kind, message) {
    if (this.hasEnded) this.leave(1);
    this.hasEnded = true;
    this.streams.end();
    this.channel.send({ type: 'failed', kind, message, dropped: this.channel.dropped });
    this.leave(1);
  }
}

function refuseGenerator(returned) {
  if (/ (Async)?Generator\]$/.test(Object.prototype.toString.call(returned))) {
    throw new TypeError('Run has a yield in it, so nothing of it was executed');
  }
}

function nextTurn() {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

module.exports = { Run };
