-- Up to a hundred claims that the store has for a session.
--
-- ARGV[3] session
--
-- Replies: {"claims", for each: claim, number, name}

local reply = {'claims'}
local own = call('ZRANGE', TAG .. 'o:' .. ARGV[3], 0, SWEEP - 1, 'WITHSCORES')
for i = 1, #own, 2 do
  local number, id, name = owned(own, i)
  reply[#reply + 1] = id
  reply[#reply + 1] = number
  reply[#reply + 1] = name
end
return reply
