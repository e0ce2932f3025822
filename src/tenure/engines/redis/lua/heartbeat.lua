-- Extend a session and sweep a little, unless it is over (A3).
--
-- ARGV[3] session   ARGV[4] ttl   ARGV[5] 1: list the grants that were told and perhaps not yet taken (B4)
--
-- Replies: {"over"} | {"lives", stolen, then for each grant: claim, number, floor}

local session = ARGV[3]
local record = call('HMGET', TAG .. 's:' .. session, 'until', 'stolen')
if not record[1] or tonumber(record[1]) <= NOW then return {'over'} end
-- A server whose memory is full refuses HSET as a script's first write, and lets a script finish that has written
-- before (SCRIPT_WRITE_DIRTY). PERSIST changes nothing and needs no memory: a full server ends nobody's lease.
call('PERSIST', TAG .. 's:' .. session)
extend(session, tonumber(ARGV[4]))
sweep(SWEEP)
local reply = {'lives', plain and plain.counted(session, record[2]) or record[2]}
if ARGV[5] == '1' then
  -- The newest first: what waits was asked for last.
  local own = call('ZREVRANGE', TAG .. 'o:' .. session, 0, SWEEP - 1, 'WITHSCORES')
  for i = 1, #own, 2 do
    local number, id, name = owned(own, i)
    local row = find(session, id, name, number)
    if row and row.floor ~= '0' and row.freed == 0 then
      reply[#reply + 1] = row.id
      reply[#reply + 1] = row.number
      reply[#reply + 1] = row.floor
    end
  end
end
return reply
