"""Token buckets in Redis, shared by all processes of the tier. While it is away, or too slow, each process gives its own part of
every rate from buckets in memory: together they are never above it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from penguin_queue.domain.rates import AHEAD_S, LATER_S, LEAST, Ask, Buckets, Grant, Rate
from penguin_queue.store.redis import Guard

log = logging.getLogger(__name__)

# The algorithm is domain.rates.Buckets, whose words explain it; a test holds the two against each other.
_TAKE = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
if ARGV[4] == '1' then redis.call('SET', KEYS[1], string.format('%.6f', now)) end
redis.call('SET', KEYS[1], string.format('%.6f', now), 'NX')
local began = tonumber(redis.call('GET', KEYS[1]))
local AHEAD, LATER, LEAST = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local known = {}
local function filled(key, per_s, burst)
  local bucket = known[key]
  if not bucket then
    local v = redis.call('HMGET', key, 't', 'at', '1', '2', '3')
    if v[1] then
      bucket = {t = tonumber(v[1]), at = tonumber(v[2]), tonumber(v[3]), tonumber(v[4]), tonumber(v[5])}
    else
      bucket = {t = math.min(burst, math.max(LEAST, (now - began) * per_s)), at = now, 0, 0, 0}
    end
    known[key] = bucket
  end
  -- Nothing is gained for the time before the buckets were begun, or begun again.
  bucket.t = math.min(burst, bucket.t + math.max(0, now - math.max(bucket.at, began)) * per_s)
  bucket.at, bucket.per_s, bucket.burst = now, per_s, burst
  return bucket
end
local out = {}
local i = 5
while i <= #ARGV do
  local count, priority = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local lined, lines, buckets = ARGV[i + 2] == '1', ARGV[i + 3] == '1', tonumber(ARGV[i + 4])
  i = i + 5
  local found, line, granted = {}, 0, count
  for b = 1, buckets do
    found[b] = filled(KEYS[tonumber(ARGV[i])], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
    i = i + 3
    for p = 1, priority do line = math.max(line, found[b][p]) end
    granted = math.min(granted, math.floor(found[b].t))
  end
  if (not lined) and line > now then granted = 0 end
  granted = math.max(0, granted)
  local first, step, head = now, 0, 0
  for b = 1, buckets do
    found[b].t = found[b].t - granted
    local wait = math.max(0, 1 - found[b].t) / found[b].per_s
    if b == 1 then head = wait end
    first = math.max(first, now + wait)
    step = math.max(step, 1 / found[b].per_s)
  end
  local placed, later, denied = 0, 0, count - granted
  if denied == 0 then
    first, step, head = now, 0, 0
  else
    if not lined then first = math.max(first, line) end
    if lined and lines then
      placed = denied
    elseif lines then
      if first <= now + AHEAD then
        placed = math.max(0, math.min(denied, 1 + math.floor((now + AHEAD - first) / step)))
      end
      if placed > 0 then
        for b = 1, buckets do
          for p = priority, 3 do found[b][p] = math.max(found[b][p], first + placed * step) end
        end
      end
      if placed < denied then
        later = math.min(math.max(math.max(0, first + placed * step - now) / 2, step), LATER)
      end
    end
  end
  out[#out + 1] = {granted, string.format('%.6f', first - now), string.format('%.6f', step), placed,
                   string.format('%.6f', later), string.format('%.6f', head)}
end
for key, bucket in pairs(known) do
  redis.call('HSET', key, 't', string.format('%.6f', bucket.t), 'at', string.format('%.6f', bucket.at),
             '1', string.format('%.6f', bucket[1]), '2', string.format('%.6f', bucket[2]),
             '3', string.format('%.6f', bucket[3]))
  local full = (bucket.burst - bucket.t) / bucket.per_s
  redis.call('PEXPIRE', key, math.ceil(1000 * math.max(full, bucket[3] - now)) + 60000)
end
out[#out + 1] = redis.call('GET', KEYS[1])
return out
"""
# Buckets that were begun again since are others, which gave nothing.
_GIVE_BACK = """
if redis.call('GET', KEYS[2]) ~= ARGV[3] then return end
local v = redis.call('HGET', KEYS[1], 't')
if v then
  redis.call('HSET', KEYS[1], 't', string.format('%.6f', math.min(tonumber(ARGV[2]), tonumber(v) + tonumber(ARGV[1]))))
end
"""
_BEGAN = b"{penguin-queue}:rates"


class Rates:
    """Buckets in one Redis, or in this process alone."""

    def __init__(self, client: Redis | None, guard: Guard, processes: int = 1) -> None:
        self._guard = guard
        self._take: Any = client.register_script(_TAKE) if client else None
        self._give_back: Any = client.register_script(_GIVE_BACK) if client else None
        self._processes = processes
        # While Redis is away; without one from the first.
        self._alone = Buckets(time.monotonic()) if client is None else None

    async def take(self, asks: Sequence[Ask]) -> list[Grant]:
        """Take tokens, ask by ask. Never raises."""
        if self._take is not None and self._guard.usable:
            keys = list(dict.fromkeys(name for ask in asks for name, _ in ask.buckets))
            # Back after a while without it: what was given meanwhile is not to be given twice.
            args: list[object] = [AHEAD_S, LATER_S, LEAST, int(self._alone is not None)]
            for ask in asks:
                args += [ask.count, ask.priority, int(ask.lined), int(ask.lines), len(ask.buckets)]
                for name, rate in ask.buckets:
                    args += [keys.index(name) + 2, rate.per_s, rate.burst]
            async with self._guard.act():
                *found, began = await self._take(keys=[_BEGAN, *map(_key, keys)], args=args)
                self._alone = None
                return [
                    Grant(int(row[0]), float(row[1]), float(row[2]), int(row[3]), float(row[4]), float(row[5]), began)
                    for row in found
                ]
        now = time.monotonic()
        alone = self._by_itself(now)
        return [replace(alone.take(self._part(ask), now), source=alone) for ask in asks]

    async def give_back(self, name: str, rate: Rate, count: int, source: object) -> None:
        """Tokens that nobody needed after all, to whence they came: Redis may have gone, or come back, since. Never raises; what
        cannot be given back is lost."""
        if isinstance(source, Buckets):
            source.give_back(name, self._own(rate), count, time.monotonic())
        elif self._give_back is not None and self._guard.usable:
            async with self._guard.act():
                await self._give_back(keys=[_key(name), _BEGAN], args=[count, rate.burst, source])

    def _by_itself(self, now: float) -> Buckets:
        """This process's own buckets: empty whenever Redis has just gone, for what it had given is not known here."""
        if self._alone is None:
            self._alone = Buckets(now, 0.0)
        return self._alone

    def _part(self, ask: Ask) -> Ask:
        own = [(name, self._own(rate)) for name, rate in ask.buckets]
        return Ask(own, ask.count, ask.priority, ask.lined, ask.lines)

    def _own(self, rate: Rate) -> Rate:
        return Rate(rate.per_s / self._processes, max(1, rate.burst // self._processes))


def _key(name: str) -> bytes:
    return b"{penguin-queue}:rate:" + name.encode()
