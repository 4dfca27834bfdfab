'use strict';
// What takes the place of process.stdout and process.stderr, and so of what console writes to, while an action runs.
//
// An action's output becomes log entries, a line each, by the same channel as `engine.log`, so that their order is kept. What is
// written to descriptors 1 and 2 by other means (a child process) the server reads from the pipes behind them. A plain program's
// standard output is that pipe: it is the result.

const { Writable } = require('node:stream');
const { writeAll } = require('./channel');
const { isOfProgram } = require('./frames');
const { MAX_LOG_CHARACTERS, cut } = require('./text');

const KEPT_OF_A_LINE = 4 * (MAX_LOG_CHARACTERS + 1); // bytes: enough for a log entry to be seen as cut
const LINE_END = 10;

/** Bytes in, a log entry a line out; none of the engine's own frames in a stack that the action prints. */
class LineSink {
  constructor(channel, level) {
    this.channel = channel;
    this.level = level;
    this.parts = [];
    this.size = 0;
  }

  write(data) {
    let start = 0;
    for (let end = data.indexOf(LINE_END); end >= 0; end = data.indexOf(LINE_END, start)) {
      this.keep(data.subarray(start, end));
      this.endLine();
      start = end + 1;
    }
    this.keep(data.subarray(start));
  }

  keep(part) {
    const kept = part.subarray(0, Math.max(0, KEPT_OF_A_LINE - this.size));
    if (kept.length === 0) return;
    this.parts.push(Buffer.from(kept)); // a copy: who wrote it may go on using its buffer
    this.size += kept.length;
  }

  endLine() {
    const line = Buffer.concat(this.parts).toString('utf8');
    this.parts = [];
    this.size = 0;
    if (!isOfProgram(line)) this.channel.log(this.level, Buffer.from(cut(line)));
  }

  /** What was written without a line's end at last. */
  end() {
    if (this.size > 0) this.endLine();
  }
}

/** A stream whose writes are done when `write` returns. */
class Output extends Writable {
  constructor(fd, take) {
    super({ decodeStrings: true });
    this.fd = fd;
    this.take = take;
  }

  _write(chunk, encoding, done) {
    this.take(chunk);
    done();
  }

  /** As process.stdout: ended or destroyed, it still can be written to. */
  _destroy(error, done) {
    done(error);
  }
}

/** The replaced streams of one run. Standard output is logged, and collected until `pass` or `collected` is called. */
class Streams {
  constructor(channel) {
    this.printed = [];
    this.out = new LineSink(channel, 'debug');
    this.error = new LineSink(channel, 'error');
    this.stdout = new Output(1, (data) => this.print(data));
    this.stderr = new Output(2, (data) => this.error.write(data));
    replace('stdout', this.stdout);
    replace('stderr', this.stderr);
  }

  print(data) {
    this.printed?.push(Buffer.from(data));
    this.out.write(data);
  }

  /** Standard output goes to descriptor 1 as it is. */
  pass() {
    this.printed = null;
    this.stdout.take = (data) => writeAll(1, data);
  }

  /** Standard output up to now; from now on it isn't kept. */
  collected() {
    const printed = Buffer.concat(this.printed ?? []);
    this.printed = null;
    return printed;
  }

  /** Everything written so far is sent. */
  end() {
    this.out.end();
    this.error.end();
  }
}

function replace(name, stream) {
  Object.defineProperty(process, name, { configurable: true, enumerable: true, get: () => stream });
}

module.exports = { Streams };
