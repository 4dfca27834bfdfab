'use strict';
// What an action's answer may be: pure checks that throw TypeError with a message for the author.
//
// The channel is writable by the tenant: the server repeats these checks on what it receives (engines/python/checks.py).

const { inspect } = require('node:util');
const { shorten } = require('./text');

const TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"; // RFC 9110, 5.6.2
const QUOTED = String.raw`"(?:[\t \x21\x23-\x5b\x5d-\x7e]|\\[\t \x21-\x7e])*"`;
const IS_TOKEN = new RegExp(`^${TOKEN}$`);
// RFC 9110, 8.3.1. Blanks belong to what follows them, so that each text matches in one way only. None at the end.
const IS_MEDIA_TYPE = new RegExp(String.raw`^${TOKEN}/${TOKEN}(?:[ \t]*;(?:[ \t]*${TOKEN}=(?:${TOKEN}|${QUOTED}))?)*$`);
const IS_VALUE = /^[\t\x20-\x7e]*$/;
const MAX_HEADER_BYTES = 16 * 1024; // names and values together: proxies in front refuse more
const FORBIDDEN_HEADERS = new Set([
  ...['connection', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'trailers', 'transfer-encoding', 'upgrade'],
  ...['proxy-authenticate', 'proxy-authorization'],
  ...['content-length', 'date', 'server', 'x-run-id'],
  ...['clear-site-data', 'service-worker-allowed', 'strict-transport-security'], // would reach past this action
]);
const OWN_COOKIES = 'codeactions';
const MAX_SHOWN = 80; // characters

/** A number from 200 to 599, given as such or as a string of digits. */
function statusCode(status) {
  const isNumber = Number.isInteger(status) || (typeof status === 'string' && /^0*[0-9]{3}$/.test(status));
  const number = isNumber ? Number(status) : NaN;
  if (number >= 200 && number <= 599) return number;
  throw new TypeError(`status_code ${shown(status)}: it must be a number from 200 to 599`);
}

/** `text`, `json`, `html`, another short word (served as plain text) or a media type with its parameters. */
function contentType(value) {
  if (typeof value === 'string' && value.length <= 256 && (IS_TOKEN.test(value) || IS_MEDIA_TYPE.test(value))) return value;
  throw new TypeError(`content_type ${shown(value)}: it must be text, json, html or a media type such as text/csv`);
}

/** Pairs of name and value, in order; an array of values is a header that is sent several times. */
function headers(given) {
  if (given === undefined || given === null) return [];
  const checked = entries(given).flatMap(([name, values]) => [values].flat().map((value) => header(name, value)));
  if (checked.reduce((sum, [name, value]) => sum + name.length + value.length, 0) > MAX_HEADER_BYTES) {
    throw new TypeError(`headers: more than ${MAX_HEADER_BYTES} bytes in all`);
  }
  return checked;
}

/** Of an object, or of a Map or Headers, which are iterable. */
function entries(given) {
  if (typeof given !== 'object' || Array.isArray(given)) {
    throw new TypeError(`headers ${shown(given)}: it must be an object of names and values`);
  }
  return typeof given[Symbol.iterator] === 'function' ? [...given] : Object.entries(given);
}

function header(name, value) {
  if (typeof name !== 'string' || !IS_TOKEN.test(name)) throw new TypeError(`header ${shown(name)}: not a valid header name`);
  if (FORBIDDEN_HEADERS.has(name.toLowerCase())) throw new TypeError(`header ${name}: an action may not set it`);
  if (typeof value !== 'string' && !Number.isSafeInteger(value)) {
    throw new TypeError(`header ${name}: its value must be a string or an integer, not ${kind(value)}`);
  }
  const text = String(value).replace(/^[ \t]+|[ \t]+$/g, '');
  if (!IS_VALUE.test(text)) throw new TypeError(`header ${name}: its value may hold only printable ASCII, no line breaks`);
  if (name.toLowerCase() === 'set-cookie' && isOwnCookie(text)) {
    throw new TypeError(`header ${name}: cookies named ${OWN_COOKIES}… belong to the appliance`);
  }
  return [name, text];
}

/** Browsers send a nameless cookie `=a=b` as `a=b`, so what comes before a name doesn't count. */
function isOwnCookie(value) {
  const name = value.replace(/^[ \t=]+/, '').toLowerCase();
  return name.replace(/^__host-/, '').replace(/^__secure-/, '').startsWith(OWN_COOKIES);
}

function kind(value) {
  return value === null ? 'null' : typeof value;
}

function shown(value) {
  return shorten(inspect(value, { depth: 0, breakLength: Infinity }), MAX_SHOWN);
}

module.exports = { contentType, headers, shown, statusCode };
