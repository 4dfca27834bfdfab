'use strict';
// What an action is given: `engine`, with the request to read, a log to write and a result to set.

const checks = require('./checks');
const { cut, encode } = require('./text');
const { toBytes, toLogText } = require('./values');

const OPTIONS = ['status_code', 'content_type', 'headers'];

/** The first value of each query parameter. */
class Params {
  #values = new Map();

  constructor(pairs) {
    for (const [name, value] of pairs) if (!this.#values.has(name)) this.#values.set(name, value);
  }

  get(name, otherwise = null) {
    return this.#values.get(String(name)) ?? otherwise;
  }

  items() {
    return [...this.#values];
  }
}

/** The request's headers: names in canonical form (`Custom-Header`), found by any case, with all their values. */
class Header {
  #values = new Map();

  constructor(pairs) {
    for (const [name, value] of pairs) {
      const values = this.#values.get(canonical(name)) ?? [];
      this.#values.set(canonical(name), [...values, value]);
    }
  }

  get(name, otherwise = '') {
    return this.#values.get(canonical(String(name)))?.[0] ?? otherwise;
  }

  items() {
    return [...this.#values].map(([name, values]) => [name, [...values]]);
  }
}

function canonical(name) {
  const parts = name.split('-');
  return parts.map((part) => part.slice(0, 1).toUpperCase() + part.slice(1).toLowerCase()).join('-');
}

/** Entries of the run's log. A value that isn't a string is logged as JSON. */
function makeLog(channel) {
  const at = (level) => (...given) => channel.log(level, encode(cut(toLogText(given.length === 0 ? '' : given[0]))));
  return Object.freeze({ debug: at('debug'), info: at('info'), error: at('error') });
}

/**
 * The answer: `engine.result.set(value, {status_code, content_type, headers})`, or these by position; `engine.result(…)` is the
 * same call, and the last call wins. Throws TypeError for a status, content type or header that can't be sent.
 *
 * `endRun(kind, message)` ends the run as failed, here and now, whatever the action would catch.
 */
function makeResult(channel, maxBytes, endRun) {
  function set(...given) {
    const value = given.length === 0 ? '' : given[0];
    const options = optionsOf(given.slice(1));
    const status = checks.statusCode(options.status_code);
    const [mediaType, pairs] = typed(checks.contentType(options.content_type), checks.headers(options.headers));
    const blob = toBytes(value, isJson(mediaType));
    if (blob.length > maxBytes) {
      endRun('output_limit', `the result is ${blob.length} bytes, the limit is ${maxBytes} bytes (MAX_RESULT_BYTES)`);
    }
    channel.send({ type: 'result', status_code: status, content_type: mediaType, headers: pairs }, blob);
  }
  return Object.freeze(Object.assign((...given) => set(...given), { set }));
}

function optionsOf(given) {
  const [first, contentType, headers] = given;
  if (typeof first !== 'object' || first === null) return withDefaults(first, contentType, headers);
  const unknown = Object.keys(first).find((name) => !OPTIONS.includes(name));
  if (unknown !== undefined) throw new TypeError(`result.set has no option ${unknown}: there are ${OPTIONS.join(', ')}`);
  return withDefaults(first.status_code, first.content_type, first.headers);
}

function withDefaults(status_code = 200, content_type = 'text', headers = undefined) {
  return { status_code, content_type, headers };
}

/** A Content-Type among the headers is the content type, so that an answer never has two. */
function typed(mediaType, headers) {
  const isType = ([name]) => name.toLowerCase() === 'content-type';
  const named = headers.filter(isType);
  return [named.length ? checks.contentType(named.at(-1)[1]) : mediaType, headers.filter((pair) => !isType(pair))];
}

function isJson(contentType) {
  const essence = contentType.split(';')[0].trim().toLowerCase();
  return essence === 'json' || essence === 'application/json' || essence.endsWith('+json');
}

/** The request as it came. `path` is without the query, `body_bytes` is the body before decoding. */
class Request {
  #body;

  constructor(job, log) {
    this.method = job.method;
    this.path = job.path;
    this.params = new Params(job.params);
    this.header = new Header(job.headers);
    this.body_bytes = job.body;
    this.log = log;
  }

  get body() {
    this.#body ??= this.body_bytes.toString('utf8');
    return this.#body;
  }
}

/** The argument of `Run`. */
class Engine {
  constructor(request, result) {
    this.request = request;
    this.params = request.params;
    this.header = request.header;
    this.log = request.log;
    this.result = result;
  }

  /** The body as text; bytes that aren't UTF-8 are replaced. */
  get body() {
    return this.request.body;
  }
}

function makeEngine(job, channel, endRun) {
  const request = new Request(job, makeLog(channel));
  return new Engine(request, makeResult(channel, job.maxResultBytes, endRun));
}

module.exports = { makeEngine };
