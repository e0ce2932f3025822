-- Runs the caller's commands, in order, up to the first that fails. What came before that one is done, and stays.
--
-- ARGV[5...]  each command: how many words it has, and the words
--
-- Replies: {1, reply, ...}; the last one is an error if that command failed

local replies, at = {1}, 5
while ARGV[at] do
  local words = tonumber(ARGV[at])
  local reply = redis.pcall(unpack(ARGV, at + 1, at + words))
  replies[#replies + 1] = reply
  if type(reply) == 'table' and reply.err then
    number(seq)
    break
  end
  at = at + words + 1
end
return replies
