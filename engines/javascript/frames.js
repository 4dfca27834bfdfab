'use strict';
// The lines of an error's stack: where each is, and whose.

const path = require('node:path');

const FRAME = /^ {4}at /;
const SHOWN_FRAME = /^\s+at /; // of a cause, within an object or a group of console's: further in
const PLACE = /([^\s()]+):(\d+):(\d+)\)?$/; // file, line and column at the end of a frame
const PROGRAM = path.dirname(path.dirname(__dirname)); // outside a sandbox the engine may lie in /tmp as well

/** {file, line} of a frame, undefined for any other line. */
function placeIn(frame) {
  const found = FRAME.test(frame) ? PLACE.exec(frame) : null;
  return found ? { file: found[1], line: Number(found[2]) } : undefined;
}

/** A frame of the engine's own, also as console shows it. */
function isOfProgram(line) {
  if (!line.includes(PROGRAM) || !SHOWN_FRAME.test(line)) return false;
  const file = PLACE.exec(line)?.[1] ?? '';
  return file.startsWith(PROGRAM + path.sep) || file.startsWith(`file://${PROGRAM}/`);
}

module.exports = { FRAME, isOfProgram, placeIn };
