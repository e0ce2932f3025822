-- Remove the claim with this number, if it stands there (B9): by name alone a repeat would rob the successor.
--
-- ARGV[3] name   ARGV[4] number
--
-- Replies: {"stolen", "1" or "0"}

local found = call('ZRANGEBYSCORE', TAG .. 'q:' .. ARGV[3], ARGV[4], ARGV[4])[1]
if not found then return {'stolen', '0'} end
local row = claim(ARGV[3], found)
if call('EXISTS', TAG .. 's:' .. row.session) == 1 then
  call('HINCRBY', TAG .. 's:' .. row.session, 'stolen', 1)
  -- A repeat of its enqueue must not bring it back: claim ids are used once (B1).
  bury(row.session, row.id)
end
-- The robbed session's waiters look again; its keeper learns it from the count in the next heartbeat.
hint(row)
-- At once, also past a lock_delay: an operator who steals has decided that nobody is at work.
leave(row)
settle(row.name, tonumber(row.number))
return {'stolen', '1'}
