-- Raises the fence to the caller's floor. By itself, and so committed before its holder reads anything.
--
-- It writes also where nothing is to be raised, so that a replica, a full server and one that has lost its disk refuse
-- the holder here, and not in the middle of its work.
--
-- Replies: the fence as it was: token, seq, authority

if not stale then
  if below(token, ARGV[2]) then
    redis.call('HSET', KEYS[1], 'token', ARGV[2], 'seq', '0', 'authority', ARGV[3] ~= '' and ARGV[3] or authority)
  else
    redis.call('HSET', KEYS[1], 'token', token)
  end
end
return {token, seq, authority}
