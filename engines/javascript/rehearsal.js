'use strict';
// Runs a small job to nowhere in a process that waits for its real one, so that no call pays for what is done the first time:
// functions compiled, modules of node's own loaded, threads started.

const fs = require('node:fs');
const crypto = require('node:crypto');
const { makeEngine } = require('./engine');
const { jobOf } = require('./job');
const { compile, mayDefineRun } = require('./source');

const SOURCE = Buffer.from(`function Run(engine) {
  console.log(engine.params.get("name"));
  engine.log.info({ name: engine.params.items() });
  engine.result.set({ header: engine.header.get("host"), body: engine.body }, { content_type: "json", headers: { "X-A": "b" } });
}
`);
const HEADER = {
  source_bytes: SOURCE.length,
  method: 'GET',
  path: '/',
  params: [['name', 'value']],
  headers: [['Host', 'localhost']],
  limits: {},
  max_log_bytes: 1000,
  max_result_bytes: 1000,
};

/** Leaves nothing behind but warm memory. */
async function rehearse(channel, streams) {
  const { fd } = channel;
  channel.fd = fs.openSync('/dev/null', 'w');
  const job = jobOf({ header: HEADER, blob: SOURCE });
  const run = mayDefineRun(job.source) && (await compile(job.source, false)());
  await run(makeEngine(job, channel));
  streams.end();
  streams.printed = [];
  channel.send({ type: 'done', dropped: channel.dropped });
  fs.closeSync(channel.fd);
  Object.assign(channel, { fd, logged: 0 });
  // Started when the first needs them, they would be too many for an action at its limit, and node then aborts.
  crypto.randomBytes(1, () => {});
}

module.exports = { rehearse };
