'use strict';
// The job channel's frames: u32 header length | u32 blob length (big-endian) | header (a JSON object in UTF-8) | blob.
//
// Everything is read and written at once, by blocking system calls: what an action has logged is out when the call returns,
// whatever happens next.

const fs = require('node:fs');
const { wellFormed } = require('./text');

const SIZES = 8; // bytes of the two lengths
const LEAST_LOG_BYTES = 32; // what an entry counts at least, as the server counts it
const LEVELS = ['debug', 'info', 'error'];
const LOG_HEADERS = Object.fromEntries(LEVELS.map((level) => [level, Buffer.from(JSON.stringify({ type: 'log', level }))]));
const { stringify } = JSON; // an action may change the one it finds
const { writeSync, readSync } = fs;

/** The other end closed in the middle of a frame. */
class CutError extends Error {}

/** The next frame as {header, blob}; null when the other end closed before it began. Throws CutError. */
function readFrame(fd) {
  const sizes = read(fd, SIZES);
  if (sizes.length === 0) return null;
  const header = read(fd, sizes.readUInt32BE(0));
  return { header: JSON.parse(header), blob: read(fd, sizes.readUInt32BE(4)) };
}

/** Exactly `size` bytes, or none at all at the end of the stream. */
function read(fd, size) {
  const data = Buffer.allocUnsafeSlow(size);
  let got = 0;
  for (let count = 1; got < size && count > 0; got += count) count = readSync(fd, data, got, size - got, null);
  if (got !== 0 && got !== size) throw new CutError(`${got} bytes of ${size}`);
  return data.subarray(0, got);
}

/** All of it, also where a child process has made the shared pipe non-blocking. */
function writeAll(fd, data) {
  for (let written = 0; written < data.length; ) {
    try {
      written += writeSync(fd, data, written);
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

/** At 1, 2, 4, 8, …: a flood of entries doesn't become one of counts. */
function isTold(dropped) {
  return (dropped & (dropped - 1)) === 0;
}

/** The engine's end of the channel. A write that the server no longer reads is dropped without a word. */
class Channel {
  constructor(fd) {
    this.fd = fd;
    this.maxLogBytes = Infinity;
    this.dropped = 0;
    this.logged = 0;
  }

  /**
   * An entry of `content` (bytes). From the first one that has no room, all are dropped and counted. How many is told now and
   * then: a run that is killed says no last word.
   */
  log(level, content) {
    const size = Math.max(content.length, LEAST_LOG_BYTES);
    if (this.dropped > 0 || this.logged + size > this.maxLogBytes) {
      this.dropped += 1;
      if (isTold(this.dropped)) this.send({ type: 'dropped', dropped: this.dropped });
      return;
    }
    this.logged += size;
    this.write(LOG_HEADERS[level], content);
  }

  send(header, blob = Buffer.alloc(0)) {
    this.write(Buffer.from(wellFormed(stringify(header))), blob);
  }

  write(header, blob) {
    const sizes = Buffer.allocUnsafe(SIZES);
    sizes.writeUInt32BE(header.length, 0);
    sizes.writeUInt32BE(blob.length, 4);
    try {
      writeAll(this.fd, Buffer.concat([sizes, header, blob]));
    } catch {
      // the server has gone, or the action has closed its channel
    }
  }
}

module.exports = { Channel, CutError, readFrame, writeAll };
