// What the JavaScript drivers share: scenarios over a driver object, clocks, and the line that is printed.
// A driver has open, close, enqueue(payloads), enqueueOne(payload), drain(drained, limitMs) and work(handled).

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const PER_CALL = 1000;
const IN_FLIGHT = 32;
const WARM_UP = 200;
// Between two jobs of the idle scenario, so that the worker sleeps when the next one comes.
const PAUSE_MS = 20;

const payloads = (count) => Array.from({ length: count }, () => ({ email_id: randomUUID() }));

// Counts handled jobs; wait() ends with the last one or after the limit.
class Drained {
  constructor(wanted) {
    this.wanted = wanted;
    this.count = 0;
    this.done = new Promise((resolve) => (this.resolve = resolve));
  }

  add(jobs = 1) {
    this.count += jobs;
    if (this.count >= this.wanted) this.resolve(true);
  }

  wait(limitMs) {
    return Promise.race([this.done, sleep(limitMs, false, { ref: false })]);
  }
}

// Seconds that `callers` need for all calls.
async function atOnce(calls, callers) {
  let next = 0;
  const caller = async () => {
    while (next < calls.length) await calls[next++]();
  };
  const started = performance.now();
  await Promise.all(Array.from({ length: callers }, caller));
  return (performance.now() - started) / 1000;
}

async function bulk(driver, count) {
  const jobs = payloads(count);
  const calls = [];
  for (let first = 0; first < count; first += PER_CALL) {
    const part = jobs.slice(first, first + PER_CALL);
    calls.push(() => driver.enqueue(part));
  }
  return { rate: count / (await atOnce(calls, Number(process.env.BENCH_CALLERS ?? 4))) };
}

async function single(driver, count) {
  const calls = payloads(count + WARM_UP).map((job) => () => driver.enqueueOne(job));
  await atOnce(calls.slice(0, WARM_UP), IN_FLIGHT);
  return { rate: count / (await atOnce(calls.slice(WARM_UP), IN_FLIGHT)) };
}

async function drain(driver, count) {
  const drained = new Drained(count);
  const started = performance.now();
  await driver.drain(drained, Number(process.env.BENCH_LIMIT_S ?? 20) * 1000);
  return { rate: drained.count / ((performance.now() - started) / 1000) };
}

async function idle(driver, count) {
  let begun;
  const waits = [];
  await driver.work(() => begun?.(performance.now()));
  for (const job of payloads(count + 10)) {
    await sleep(PAUSE_MS);
    const handled = new Promise((resolve) => (begun = resolve));
    const started = performance.now();
    await driver.enqueueOne(job);
    waits.push((await handled) - started);
  }
  const sorted = waits.slice(10).sort((a, b) => a - b);
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  return { p50: at(0.5), p99: at(0.99) };
}

const SCENARIOS = { bulk, drain, single, idle };

// Run the scenario that the arguments name and print its figure.
export async function main(driver) {
  const [scenario, count] = process.argv.slice(2);
  await driver.open();
  const figures = await SCENARIOS[scenario](driver, Number(count));
  console.log(JSON.stringify(figures));
  await Promise.race([driver.close(), sleep(2000)]);
  process.exit(0);
}
