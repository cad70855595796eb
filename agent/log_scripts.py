"""What Redis itself does to an attempt's log, step by step all or nothing: Lua scripts, run by `agent.logs.LogWriter`.

Each has the keys job_logs, job_logs_meta and logs_to_archive, and answers -1 where a later attempt writes the log, -2
where the log is not as the writer thought, and FULL where the archive lags behind.
"""

from agent.protocol import NOTHING_SHIPPED

FULL = -3

_PRELUDE = """
local list, meta, due = KEYS[1], KEYS[2], KEYS[3]
local attempt = tonumber(ARGV[1])
local current = tonumber(redis.call('HGET', meta, 'attempt') or '0')
if attempt < current then return -1 end
"""

OPEN = (
    _PRELUDE
    + """
local now = tonumber(redis.call('TIME')[1])
if attempt > current then
    if current == 0 and attempt > 1 then
        local up = tonumber(redis.call('INFO', 'server'):match('uptime_in_seconds:(%d+)'))
        if ARGV[7] == '1' or up < tonumber(ARGV[8]) then return -3 end
    end
    local cut_off, complete = {}, redis.call('HGET', meta, 'complete') == '1'
    for earlier = math.max(current, 1), attempt - 1 do
        local waits = redis.call('HGET', meta, 'waits:' .. earlier)
        if waits and tonumber(waits) > now then
            redis.call('HSET', meta, 'waits:' .. attempt, now + ARGV[5])
            redis.call('ZADD', due, 0, ARGV[2])
            return -3
        end
        if (waits or earlier == current) and not (complete and earlier == current) then
            table.insert(cut_off, earlier)
        end
    end
    for _, name in ipairs({'lines', 'bytes', 'dropped', 'unarchived'}) do redis.call('HSETNX', meta, name, 0) end
    local lines, archived = tonumber(redis.call('HGET', meta, 'lines')), redis.call('HGET', meta, 'archived')
    if not archived then
        redis.call('ZADD', due, 0, ARGV[2])
    elseif tonumber(archived) > lines then
        lines = tonumber(archived)
        redis.call('DEL', list)
        redis.call('HSET', meta, 'lines', lines, 'dropped', lines, 'bytes', 0, 'unarchived', 0)
    end
    for _, earlier in ipairs(cut_off) do
        local note = ARGV[3] .. earlier .. ARGV[4]
        redis.call('HDEL', meta, 'waits:' .. earlier)
        redis.call('RPUSH', list, note)
        lines = redis.call('HINCRBY', meta, 'lines', 1)
        redis.call('HINCRBY', meta, 'bytes', #note)
        redis.call('HINCRBY', meta, 'unarchived', #note)
    end
    redis.call('HSET', meta, 'begin:' .. attempt, lines)
    if current == 0 and attempt > 1 then redis.call('HSET', meta, 'anew', attempt) end
    redis.call('HSET', meta, 'attempt', attempt, 'complete', 0, """
    + NOTHING_SHIPPED
    + """)
    redis.call('PERSIST', list)
    redis.call('PERSIST', meta)
end
if ARGV[6] == '1' then redis.call('HSET', meta, 'waits:' .. attempt, now + ARGV[5]) end
redis.call('HDEL', meta, 'tail_stdout', 'tail_stderr')
return redis.call('HMGET', meta, 'first', 'last', 'shipped', 'stdout_newlines', 'stdout_tail', 'stderr_newlines',
    'stderr_tail')
"""
)

SETTLE = """
local list, meta, due = KEYS[1], KEYS[2], KEYS[3]
local attempt, expected, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local size, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local current, shipped = tonumber(redis.call('HGET', meta, 'attempt') or '0'), redis.call('HGET', meta, 'shipped')
shipped = tonumber(shipped or '-1')
local function take_back(answer)
    redis.call('LTRIM', list, 0, -count - 1)
    return answer
end
if attempt < current then return take_back(-1) end
if current ~= attempt then return take_back(-2) end
if shipped == expected + count then return take_back({shipped, redis.call('LLEN', list) - count}) end
if shipped ~= expected then return take_back(-2) end
local bytes, dropped = tonumber(redis.call('HGET', meta, 'bytes')), tonumber(redis.call('HGET', meta, 'dropped'))
local archived, most = tonumber(redis.call('HGET', meta, 'archived') or '0'), 2 * count + 1000
local unmeasured, piece = redis.call('LLEN', list) - count - tonumber(ARGV[19]), 20
while bytes + size > limit and dropped < archived and most > 0 do
    local lines = tonumber(ARGV[piece])
    if unmeasured == 0 and lines and dropped + lines <= archived then
        redis.call('LTRIM', list, lines, -1)
        bytes, piece = bytes - ARGV[piece + 1], piece + 2
    else
        lines = math.min(100, archived - dropped)
        if unmeasured > 0 then lines = math.min(lines, unmeasured) end
        local cut = redis.call('LPOP', list, lines)
        if not cut then break end
        for _, line in ipairs(cut) do bytes = bytes - #line end
        lines = #cut
        unmeasured = unmeasured - lines
    end
    dropped, most = dropped + lines, most - lines
end
redis.call('HSET', meta, 'bytes', bytes, 'dropped', dropped)
local unarchived = tonumber(redis.call('HGET', meta, 'unarchived') or '0')
if unarchived > 0 and bytes + size > 2 * limit then
    redis.call('ZADD', due, 0, ARGV[13])
    redis.call('HSET', meta, 'waits:' .. attempt, redis.call('TIME')[1] + ARGV[18])
    return take_back(-3)
end
if redis.call('HEXISTS', meta, 'waits:' .. attempt) == 1 then
    redis.call('HSET', meta, 'waits:' .. attempt, redis.call('TIME')[1] + ARGV[18])
end
if shipped == 0 then redis.call('HSET', meta, 'first', ARGV[6]) end
redis.call('HSET', meta, 'last', ARGV[7], 'shipped', expected + count, 'stdout_newlines', ARGV[8],
    'stdout_tail', ARGV[9], 'stderr_newlines', ARGV[10], 'stderr_tail', ARGV[11],
    'tail_stdout', ARGV[16], 'tail_stderr', ARGV[17])
local total = redis.call('HINCRBY', meta, 'lines', count)
redis.call('HINCRBY', meta, 'bytes', size)
unarchived = redis.call('HINCRBY', meta, 'unarchived', size)
if unarchived >= math.min(tonumber(ARGV[14]), limit / 4) then
    redis.call('ZADD', due, 0, ARGV[13])
else
    redis.call('ZADD', due, 'NX', redis.call('TIME')[1] + ARGV[15], ARGV[13])
end
redis.call('PUBLISH', ARGV[12], total)
return {expected + count, redis.call('LLEN', list)}
"""
"""Judges the lines that were added just before it in the same MULTI, and takes them back where they must not stay. They
are no arguments of a script because each would become a Lua string, at twice the cost of adding it. So would each that
is dropped because the log is too long, were it looked at: of so many of the newest lines (ARGV[19]) the writer says the
bytes, in pieces, and only those before them are looked at.

Answers how many lines the attempt has shipped and how many are in Redis, of all attempts."""

TELL = (
    _PRELUDE
    + """
if current ~= attempt or tonumber(redis.call('HGET', meta, 'shipped')) ~= tonumber(ARGV[2]) then return -2 end
redis.call('HSET', meta, 'tail_stdout', ARGV[4], 'tail_stderr', ARGV[5])
redis.call('PUBLISH', ARGV[3], redis.call('HGET', meta, 'lines'))
return 1
"""
)

SKIP = (
    _PRELUDE
    + """
if current ~= attempt then return -2 end
if ARGV[2] == '' then
    redis.call('HSET', meta, 'unplaced', 1)
elseif redis.call('HGET', meta, 'shipped') == '0' and redis.call('LLEN', list) == 0 then
    redis.call('HINCRBY', meta, 'lines', ARGV[2])
    redis.call('HINCRBY', meta, 'dropped', ARGV[2])
end
return 1
"""
)

CLOSE = (
    _PRELUDE
    + """
if current ~= attempt or tonumber(redis.call('HGET', meta, 'shipped')) ~= tonumber(ARGV[2]) then return -2 end
redis.call('HSET', meta, 'complete', 1)
redis.call('HDEL', meta, 'tail_stdout', 'tail_stderr', 'waits:' .. attempt)
if redis.call('HGET', meta, 'anew') == ARGV[1] then
    redis.call('HSET', meta, 'waits:' .. attempt, redis.call('TIME')[1] + ARGV[5])
end
redis.call('ZADD', due, 0, ARGV[3])
redis.call('PUBLISH', ARGV[4], redis.call('HGET', meta, 'lines'))
return 1
"""
)
"""Of a log that was written `anew` the line numbers are not sure before the archiver has looked at it: a later attempt
waits for that."""
