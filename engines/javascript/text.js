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
  return `${content.slice(0, endOf(content, HEAD_OF_TRACEBACK))}\n${TRUNCATED}\n${lastOf(content, tail)}`;
}

/** Where the first `count` code points of a text end. */
function endOf(text, count) {
  let end = 0;
  for (let left = count; left > 0 && end < text.length; left -= 1) end += text.codePointAt(end) > 0xffff ? 2 : 1;
  return end;
}

/** The last `size` units of a text, without the second half of a pair at its beginning. */
function lastOf(text, size) {
  const start = text.length - size;
  return text.slice(text.codePointAt(start - 1) > 0xffff ? start + 1 : start);
}

function oneLine(text) {
  return shorten(text.split(/\s+/).filter(Boolean).join(' '), MAX_MESSAGE);
}

/** At most `limit` code points. */
function shorten(text, limit) {
  if (text.length <= limit || endOf(text, limit) === text.length) return text;
  return `${text.slice(0, endOf(text, limit - 1))}…`;
}

/** JSON.stringify writes a lone surrogate as its escape, which many readers refuse: U+FFFD takes its place. */
function wellFormed(json) {
  if (!json.includes('\\ud')) return json;
  return json.replace(/\\(?:ud[89a-f][0-9a-f]{2}|.)/g, (escape) => (escape.startsWith('\\ud') ? '\ufffd' : escape));
}

module.exports = { MAX_LOG_CHARACTERS, cut, cutMiddle, encode, oneLine, shorten, wellFormed };
