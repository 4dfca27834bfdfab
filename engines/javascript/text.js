'use strict';
// Text as it leaves the engine: always UTF-8, whatever the action made of it.

const MAX_LOG_CHARACTERS = 8000; // characters as the server counts them: code points, not halves of them
const TRUNCATED = ' …[truncated]';
const HEAD_OF_TRACEBACK = 2000;
const MAX_MESSAGE = 500; // characters: a message is one line of a JSON answer

/** Bytes in UTF-8; a lone surrogate becomes U+FFFD. */
function encode(text) {
  return Buffer.from(text, 'utf8');
}

/** A log entry's content within the limit; the mark shows that there was more. */
function cut(content) {
  if (content.length <= MAX_LOG_CHARACTERS || endOf(content, MAX_LOG_CHARACTERS) === content.length) return content;
  return content.slice(0, endOf(content, MAX_LOG_CHARACTERS - TRUNCATED.length)) + TRUNCATED;
}

/** For a traceback, whose last lines say as much as its first. */
function cutMiddle(content) {
  if (content.length <= MAX_LOG_CHARACTERS) return content;
  const tail = MAX_LOG_CHARACTERS - HEAD_OF_TRACEBACK - TRUNCATED.length - 2;
  return `${content.slice(0, HEAD_OF_TRACEBACK)}\n${TRUNCATED}\n${content.slice(-tail)}`;
}

/** Where the first `count` code points of a text end. */
function endOf(text, count) {
  let end = 0;
  for (let left = count; left > 0 && end < text.length; left -= 1) end += text.codePointAt(end) > 0xffff ? 2 : 1;
  return end;
}

function oneLine(text) {
  const line = text.split(/\s+/).filter(Boolean).join(' ');
  return line.length <= MAX_MESSAGE ? line : `${line.slice(0, MAX_MESSAGE - 1)}…`;
}

module.exports = { MAX_LOG_CHARACTERS, cut, cutMiddle, encode, oneLine };
