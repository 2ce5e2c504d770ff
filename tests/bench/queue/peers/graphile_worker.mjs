// graphile-worker: add_jobs for batches, local queue and batched completion for work, as its performance page sets them.
// https://worker.graphile.org/docs/performance and https://worker.graphile.org/docs/library/add-job#add-jobs

import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";
import { main } from "./measuring.mjs";

const logger = new Logger(() => () => {});
const size = Number(process.env.PEER_SIZE ?? 2000);
const concurrentJobs = Number(process.env.PEER_CONCURRENCY ?? 24);
const pgPool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 33 });
pgPool.on("error", () => {});
const options = (worker, rest) => ({ preset: { worker: { pgPool, concurrentJobs, ...worker } }, logger, ...rest });
const batching = { localQueue: { size }, completeJobBatchDelay: 0, failJobBatchDelay: 0 };
let utils, runner;

main({
  async open() {
    utils = await makeWorkerUtils(options());
    await utils.migrate();
  },
  async close() {
    await runner?.stop().catch(() => {});
    await utils.release();
  },
  enqueue: (jobs) => utils.addJobs(jobs.map((payload) => ({ identifier: "noop", payload }))),
  enqueueOne: (job) => utils.addJob("noop", job),
  async drain(drained, limitMs) {
    const taskList = { noop: async () => drained.add() };
    runner = await run(options(batching, { noHandleSignals: true, taskList }));
    await drained.wait(limitMs);
    await runner.stop(); // writes the completions that are still gathered
    runner = undefined;
  },
  async work(handled) {
    const taskList = { noop: async () => handled() };
    runner = await run(options({}, { noHandleSignals: true, taskList }));
  },
});
