-- For each claim, whether it stands in its queue (A2): the session's own list cannot show a queue that was evicted.
--
-- ARGV[3..] for each: session, claim, name, number
--
-- Replies: {"standing", for each "1" or "0"}

local reply = {'standing'}
for i = 3, #ARGV, 4 do
  -- One that the store lost and a late repeat entered anew has another number: it is not the one asked for.
  local row = ARGV[i + 3] ~= '0' and find(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
  reply[#reply + 1] = row and row.freed == 0 and row.id == ARGV[i + 1] and '1' or '0'
end
return reply
