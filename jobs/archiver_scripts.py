"""What Redis itself does for `jobs/archiver.py`, each all or nothing: say which logs are due, number a log that was
written anew into an emptied Redis, note how far a log is archived."""

DUE = "return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1], 'LIMIT', 0, ARGV[1])"

REBASE = """
local list, meta = KEYS[1], KEYS[2]
local attempt, begin, expected = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('HGET', meta, 'attempt') ~= attempt then return 0 end
if tonumber(redis.call('HGET', meta, 'begin:' .. attempt) or '-1') ~= begin then return 0 end
local dropped, bytes = tonumber(redis.call('HGET', meta, 'dropped')), tonumber(redis.call('HGET', meta, 'bytes'))
while dropped < begin do
    local cut = redis.call('LPOP', list, math.min(1000, begin - dropped))
    if not cut then break end
    for _, line in ipairs(cut) do bytes = bytes - #line end
    dropped = dropped + #cut
end
local later = expected - begin
if redis.call('HDEL', meta, 'unplaced') == 1 then later = later + math.max(0, tonumber(ARGV[4]) - expected) end
redis.call('HSET', meta, 'dropped', dropped + later, 'bytes', bytes, 'begin:' .. attempt, expected)
redis.call('HINCRBY', meta, 'lines', later)
return 1
"""

MARK = """
local list, meta, due, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local archived, taken, now = tonumber(ARGV[2]), tonumber(ARGV[5]), redis.call('TIME')[1]
if redis.call('EXISTS', meta) == 0 then return redis.call('ZREM', due, id) end
local attempt = redis.call('HGET', meta, 'attempt') or '0'
if attempt ~= ARGV[3] or (redis.call('HGET', meta, 'begin:' .. attempt) or '0') ~= ARGV[4] then
    return redis.call('ZADD', due, 0, id)
end
redis.call('HSET', meta, 'archived', archived)
local lines = tonumber(redis.call('HGET', meta, 'dropped') or '0') + redis.call('LLEN', list)
local unarchived = math.max(0, tonumber(redis.call('HGET', meta, 'unarchived') or '0') - taken)
local complete = redis.call('HGET', meta, 'complete') == '1'
if lines <= archived then
    unarchived = 0
    redis.call('ZREM', due, id)
    if complete then
        if redis.call('HDEL', meta, 'anew') == 1 then redis.call('ZADD', due, now, id) end
        redis.call('HDEL', meta, 'waits:' .. attempt)
        redis.call('EXPIRE', list, ARGV[6])
        redis.call('EXPIRE', meta, ARGV[6])
    end
elseif complete or unarchived >= tonumber(ARGV[7]) then
    redis.call('ZADD', due, 0, id)
else
    redis.call('ZADD', due, now + ARGV[8], id)
end
return redis.call('HSET', meta, 'unarchived', unarchived)
"""
