// pg-boss: insert() for batches; workers that fetch big batches and go on while these come full; NOTIFY for latency.
// https://github.com/timgit/pg-boss/blob/master/docs/api/workers.md and .../docs/api/jobs.md

import { PgBoss } from "pg-boss";
import { main } from "./measuring.mjs";

const QUEUE = "noop";
const batchSize = Number(process.env.PEER_SIZE ?? 4000);
const localConcurrency = Number(process.env.PEER_CONCURRENCY ?? 4);
const polling = { pollingIntervalSeconds: 0.5, burstWhenBatchFull: true };
const boss = new PgBoss({ connectionString: process.env.DATABASE_URL, max: 32, useListenNotify: true });
boss.on("error", (error) => console.error(error));

main({
  async open() {
    await boss.start();
    if (!(await boss.getQueue(QUEUE))) await boss.createQueue(QUEUE, { notify: process.argv[2] === "idle" });
  },
  close: () => boss.stop({ graceful: false }),
  enqueue: (jobs) => boss.insert(QUEUE, jobs.map((data) => ({ data }))),
  enqueueOne: (job) => boss.send(QUEUE, job),
  async drain(drained, limitMs) {
    await boss.work(QUEUE, { ...polling, batchSize, localConcurrency }, async (jobs) => drained.add(jobs.length));
    await drained.wait(limitMs);
    await boss.offWork(QUEUE, { wait: true }); // the last batches are completed after their handlers
  },
  work: (handled) => boss.work(QUEUE, { pollingIntervalSeconds: 0.5 }, async () => handled()),
});
