-- Remove claims, each telling its successors.
--
-- ARGV[3..] for each: session, claim, name, number (0 if unknown), two digits 0 or 1: leave a tombstone, it ended
--          cleanly; ttl of a tombstone whose session is not found
--
-- Replies: {"closed", for each "1" if it was there, else "0"}

local reply = {'closed'}

local function close(session, id, name, number, flags, ttl)
  if string.sub(flags, 1, 1) == '1' then
    -- As in heartbeat.lua: what gives memory back must not be refused for the lack of it.
    call('PERSIST', TAG .. 's:' .. session)
    if call('EXISTS', TAG .. 's:' .. session) == 0 then
      -- The opening request itself may still arrive: an ended record refuses it as long as it could live.
      call('HSET', TAG .. 's:' .. session, 'until', '0', 'ended', whole(NOW), 'stolen', '0', 'address', '')
      call('ZADD', TAG .. 'sessions', whole(NOW + tonumber(ttl)), session)
    end
    bury(session, id)
  end
  local row = find(session, id, name, number)
  if not row then return '0' end
  if row.freed > 0 then
    -- Without a lock_delay it is one that has lost its plain key; now nobody works under it any more.
    if row.delay == 0 then
      leave(row)
      settle(name, tonumber(row.number))
    end
    return '0'
  end
  local lost = plain and row.floor ~= '0' and not plain.stands(row)
  if string.sub(flags, 2, 2) == '1' or row.delay == 0 or row.floor == '0' then
    leave(row)
    settle(name, tonumber(row.number))
    return lost and '0' or '1'
  end
  -- Unclean: it blocks until its lock_delay is over (B10). The first waiter counts on another time, and looks again.
  row.freed = NOW + row.delay
  rewrite(row)
  local prefix = holders(name)
  if plain then plain.admits(name, prefix, false) end
  local first = prefix[1] and after(name, prefix[#prefix].number)
  if first then hint(first) end
  return '1'
end

for i = 3, #ARGV, 6 do
  reply[#reply + 1] = close(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
end
return reply
