'use strict';
// What `result.set` and `log` make of a value: the bytes of the answer, the text of an entry.

const { inspect, types } = require('node:util');
const { encode, wellFormed } = require('./text');

const { stringify } = JSON; // an action may change the one it finds

/**
 * The answer's bytes: a string or bytes as they are, anything else as JSON.
 *
 * What JSON can't hold becomes its string: inside an object or array as a JSON string, so that the JSON stays valid; on its
 * own as plain text, or as a JSON string when the content type is JSON (`asJson`).
 */
function toBytes(value, asJson) {
  if (typeof value === 'string') return encode(value);
  if (ArrayBuffer.isView(value)) return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  if (types.isAnyArrayBuffer(value)) return Buffer.from(value);
  const json = toJson(value);
  if (json !== undefined) return encode(json);
  const text = asText(value);
  return encode(asJson ? wellFormed(stringify(text)) : text);
}

/** The text of a log entry: a string as it is, anything else as JSON, and what JSON can't hold as its string. */
function toLogText(value) {
  if (typeof value === 'string') return value;
  return toJson(value) ?? asText(value);
}

/** undefined for what JSON can't hold, or what holds itself. */
function toJson(value) {
  if (!isJsonValue(value)) return undefined;
  try {
    const json = stringify(value, replacer());
    return json === undefined ? undefined : wellFormed(json);
  } catch (error) {
    if (error instanceof TypeError && holdsItself(value, new Set())) return undefined;
    throw error;
  }
}

function isJsonValue(value) {
  if (typeof value === 'number') return Number.isFinite(value);
  if (isError(value) || types.isBigIntObject(value)) return false;
  return value === null || typeof value === 'boolean' || typeof value === 'string' || typeof value === 'object';
}

/**
 * Of one value. A map or set always becomes the same object or array, so that JSON.stringify sees when one holds itself.
 *
 * An invalid date has a toJSON of null, so it is looked at as it was.
 */
function replacer() {
  const copies = new WeakMap();
  return function plain(key, value) {
    const original = this[key];
    if (types.isDate(original) && Number.isNaN(original.getTime())) return String(original);
    if (types.isMap(value) || types.isSet(value)) {
      if (!copies.has(value)) copies.set(value, types.isMap(value) ? entriesOf(value) : [...value]);
      return copies.get(value);
    }
    if (types.isTypedArray(value)) return [...value];
    return value === undefined || isJsonValue(value) ? value : asText(value);
  };
}

/** A map becomes an object where its keys are strings or numbers, else an array of pairs. */
function entriesOf(map) {
  const hasNames = [...map.keys()].every((key) => typeof key === 'string' || typeof key === 'number');
  return hasNames ? Object.fromEntries(map) : [...map];
}

/** Also one that came from a thread: node makes it anew, with its class but not as an error of the language's own. */
function isError(value) {
  try {
    return types.isNativeError(value) || value instanceof Error;
  } catch {
    return false; // a proxy of the author's
  }
}

function asText(value) {
  if (isError(value)) return `${value.name}: ${value.message}`;
  const isObject = typeof value === 'function' || (typeof value === 'object' && !types.isBigIntObject(value));
  return isObject ? inspect(value) : String(value);
}

function holdsItself(value, above) {
  if (typeof value !== 'object' || value === null) return false;
  if (above.has(value)) return true;
  above.add(value);
  const items = types.isMap(value) ? [...value].flat() : types.isSet(value) ? [...value] : Object.values(value);
  const found = items.some((item) => holdsItself(item, above));
  above.delete(value);
  return found;
}

module.exports = { isError, toBytes, toLogText };
