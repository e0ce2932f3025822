-- Runs a script of the caller's, which sees its own keys and arguments. Its text follows.
--
-- KEYS[2...], ARGV[5...]  what it sees as KEYS and ARGV
--
-- Replies: {1, whatever it returns}

local function rest(list, from)
  local found = {}
  for at = from, #list do found[#found + 1] = list[at] end
  return found
end
local done, result = pcall(function(KEYS, ARGV)
