'use strict';
// Runs a small job to nowhere in a process that waits for its real one, so that no call pays for what is done the first time:
// functions compiled, modules of node's own loaded, threads started.

const fs = require('node:fs');
const { jobOf } = require('./job');
const { Run } = require('./run');

const COMMON_JS = `function Run(engine) {
  console.log(engine.params.get("name"));
  engine.log.info({ name: engine.params.items() });
  engine.result.set({ header: engine.header.get("host"), body: engine.body }, { content_type: "json", headers: { "X-A": "b" } });
}
`;
const MODULE = `import os from "node:os";
export async function Run(engine) {
  engine.result.set(typeof os);
}
`;
const HEADER = {
  method: 'GET',
  path: '/',
  params: [['name', 'value']],
  headers: [['Host', 'localhost']],
  limits: {},
  max_log_bytes: 1000,
  max_result_bytes: 1000,
};

const WATCHED = ['beforeExit', 'uncaughtException', 'unhandledRejection']; // by a run; nobody else listens before there is an action

/** Leaves nothing behind but warm memory. */
async function rehearse(channel, streams) {
  const { fd } = channel;
  channel.fd = fs.openSync('/dev/null', 'w');
  for (const source of [COMMON_JS, MODULE]) await act(source, channel, streams);
  streams.printed = [];
  fs.closeSync(channel.fd);
  Object.assign(channel, { fd, logged: 0 });
  // Threads: started when the first needs them, they would be too many for an action at its limit, and node then aborts.
  await new Promise((resolve) => fs.stat('/', resolve));
  await new Promise((resolve) => setImmediate(resolve));
}

/** A run whose end ends nothing. */
class Rehearsal extends Run {
  exitProcess() {
    this.exit(0);
  }

  leave() {}

  fail(error) {
    throw error;
  }
}

async function act(source, channel, streams) {
  const blob = Buffer.from(source);
  const { reallyExit } = process;
  await new Rehearsal(jobOf({ header: { ...HEADER, source_bytes: blob.length }, blob }), channel, streams).start();
  process.reallyExit = reallyExit;
  for (const event of WATCHED) process.removeAllListeners(event);
}

module.exports = { rehearse };
