// BullMQ: addBulk() for batches, one worker of high concurrency, finished jobs removed.
// https://docs.bullmq.io/guide/queues/adding-bulks and https://docs.bullmq.io/guide/workers/concurrency

import { Queue, Worker } from "bullmq";
import { main } from "./measuring.mjs";

const connection = { url: process.env.VALKEY_URL, maxRetriesPerRequest: null };
const concurrency = Number(process.env.PEER_CONCURRENCY ?? 50);
const finished = { removeOnComplete: { count: 0 }, removeOnFail: { count: 0 } };
let queue, worker;

main({
  async open() {
    queue = new Queue("noop", { connection });
    await queue.waitUntilReady();
  },
  async close() {
    await worker?.close(true);
    await queue.close();
  },
  enqueue: (jobs) => queue.addBulk(jobs.map((data) => ({ name: "noop", data }))),
  enqueueOne: (job) => queue.add("noop", job),
  async drain(drained, limitMs) {
    worker = new Worker("noop", async () => {}, { connection, concurrency, ...finished });
    worker.on("completed", () => drained.add());
    await drained.wait(limitMs);
  },
  async work(handled) {
    worker = new Worker("noop", async () => handled(), { connection, ...finished });
    await worker.waitUntilReady();
  },
});
