-- Goes on only for a holder that has raised the fence, before any later one has; and once for each operation number.
--
-- Replies: {0, token, seq, authority} if it is refused; nothing was done

if stale or below(token, ARGV[2]) or (ARGV[4] ~= '0' and not below(seq, ARGV[4])) then
  return {0, token, seq, authority}
end

-- The number is noted first, while a server that is out of memory may still refuse it, and given back if the work fails.
local function number(value)
  if ARGV[4] ~= '0' then redis.call('HSET', KEYS[1], 'seq', value) end
end
number(ARGV[4])

