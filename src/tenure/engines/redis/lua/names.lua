-- The names that begin with a prefix and have a queue, in no order. Asks the sessions: a SCAN would look at every key
-- of a server that may hold millions of other people's.
--
-- ARGV[3] prefix
--
-- Replies: {"names", each name once}

local reply, seen = {'names'}, {}
for _, session in ipairs(call('ZRANGE', TAG .. 'sessions', 0, -1)) do
  for _, own in ipairs(call('ZRANGE', TAG .. 'o:' .. session, 0, -1)) do
    local name = string.match(own, '^%d+ (.*)$')
    if not seen[name] and string.sub(name, 1, #ARGV[3]) == ARGV[3] then
      seen[name] = true
      if call('EXISTS', TAG .. 'q:' .. name) == 1 then reply[#reply + 1] = name end
    end
  end
end
return reply
