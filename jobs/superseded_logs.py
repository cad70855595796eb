"""Logs in Redis of an attempt that was not the job's last, where the last one's went with Redis's memory.

An agent that was cut off writes its attempt's log as soon as it reaches Redis. Where Redis was emptied meanwhile,
nothing there says that a later attempt has written since, so the archiver looks at what the database knows. What the
archive has passed is not taken again, and a log that ends before the job's last attempt says so.
"""

from datetime import UTC, datetime
from typing import Any

import redis

from agent.protocol import NOTED, NOTHING_SHIPPED
from executors.broker import keys
from jobs.models import LogArchive

PATIENCE_SECONDS = 60
"""How long the last attempt's agent is waited for, which may be cut off as well."""

_GIVE_WAY = f"""
local list, meta, due, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local attempt, passed, begin = ARGV[2], ARGV[3], ARGV[4]
if redis.call('HGET', meta, 'attempt') ~= attempt then return 0 end
redis.call('DEL', list, meta)
redis.call('HSET', meta, 'attempt', passed, 'begin:' .. passed, begin, 'lines', begin, 'dropped', begin,
    'archived', ARGV[5], 'bytes', 0, 'unarchived', 0, 'complete', 0, 'gave_way', 1, {NOTHING_SHIPPED})
return redis.call('ZADD', due, 0, id)
"""

_END = f"""
local list, meta, due, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local attempt, last, note, now = ARGV[2], ARGV[3], ARGV[4], tonumber(redis.call('TIME')[1])
if redis.call('HGET', meta, 'attempt') ~= attempt then return 0 end
local since = redis.call('HGET', meta, 'alone:' .. attempt) or now
redis.call('HSET', meta, 'alone:' .. attempt, since)
if now < since + ARGV[5] then
    redis.call('ZADD', due, since + ARGV[5], id)
    return 0
end
local lines = tonumber(redis.call('HGET', meta, 'lines'))
local archived = tonumber(redis.call('HGET', meta, 'archived') or '0')
if archived > lines then
    lines = archived
    redis.call('DEL', list)
    redis.call('HSET', meta, 'dropped', lines, 'bytes', 0, 'unarchived', 0)
end
redis.call('RPUSH', list, note)
redis.call('HINCRBY', meta, 'bytes', #note)
redis.call('HINCRBY', meta, 'unarchived', #note)
redis.call('HSET', meta, 'lines', lines + 1, 'attempt', last, 'complete', 1, {NOTHING_SHIPPED})
redis.call('HSETNX', meta, 'begin:' .. last, lines)
redis.call('HDEL', meta, 'gave_way', 'tail_stdout', 'tail_stderr')
redis.call('PUBLISH', ARGV[6], lines + 1)
return 1
"""


def may_be_archived(client: redis.Redis, log: LogArchive, last_attempt: int, final: bool) -> bool:
    """Whether what Redis has of the log is to be archived now; False: it is looked at again when it is due.

    `last_attempt` is the number of the newest attempt that may have printed, `final` whether the job has ended. Raises
    redis.RedisError.
    """
    passed = max(map(int, log.begins), default=0)
    if max(last_attempt, passed) < 2:
        return True
    job_id = str(log.job_id)
    log_keys = [keys().job_logs(job_id), keys().job_logs_meta(job_id), keys().logs_to_archive]
    found = client.hmget(log_keys[1], "attempt", "complete", "shipped", "gave_way", "anew")
    attempt, complete, shipped, gave_way, anew = (int(value or 0) for value in found)
    begin = log.begins.get(str(passed), 0)
    if 0 < attempt < passed and log.lines >= begin:
        client.eval(_GIVE_WAY, 3, *log_keys, job_id, attempt, passed, begin, log.lines)
        return False
    superseded = 0 < attempt < last_attempt and complete and attempt != anew  # The next attempt waits for that one.
    nobody_came = attempt == last_attempt and gave_way and not shipped and not complete
    if final and (superseded or nobody_came):
        words: list[Any] = [
            job_id,
            attempt,
            last_attempt,
            _note(last_attempt),
            PATIENCE_SECONDS,
            keys().log_channel(job_id),
        ]
        return bool(client.eval(_END, 3, *log_keys, *words))
    return True


def _note(attempt: int) -> bytes:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    text = f"What attempt {attempt} printed and was not archived yet went with Redis's memory; it is missing here"
    return f"{now} {NOTED} {text}".encode()
