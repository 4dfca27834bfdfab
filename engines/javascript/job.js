'use strict';
// The one frame that the server sends: what to run, with which request, within which limits.

const { readSource } = require('./source');

/** `limits` has the keys of the contract's `extra.limits`; the other two bounds are in bytes. */
function jobOf({ header, blob }) {
  return {
    source: readSource(blob.subarray(0, header.source_bytes)),
    body: blob.subarray(header.source_bytes),
    method: header.method,
    path: header.path,
    params: header.params,
    headers: header.headers,
    limits: header.limits,
    maxLogBytes: header.max_log_bytes,
    maxResultBytes: header.max_result_bytes,
  };
}

module.exports = { jobOf };
