-- End a session and remove what is left of its claims, uncleanly; those with a lock_delay go when it is over.
--
-- ARGV[3] session
--
-- Replies: {"ended"}

if call('EXISTS', TAG .. 's:' .. ARGV[3]) == 1 then
  latch(ARGV[3])
  clear(ARGV[3])
end
return {'ended'}
