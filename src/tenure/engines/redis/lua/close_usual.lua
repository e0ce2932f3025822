-- The usual request: one exclusive holder that leaves, to nobody or to one exclusive claim whose session lives.
-- The same as close.lua has it, function by function; what is read here is written only when all of it fits.

if #ARGV == 8 and ARGV[7] == '01' then
  local session, queue, mine = ARGV[3], TAG .. 'q:' .. ARGV[5], ARGV[4] .. ' ' .. ARGV[5]
  local two = call('ZRANGE', queue, 0, 1)
  local own = ARGV[6] .. ' ' .. session .. ' ' .. ARGV[4] .. ' e '
  if two[1] and string.sub(two[1], 1, #own) == own and string.find(two[1], '^%d+ %d+ %d+ [1-9]%d* 0 ', #own + 1) then
    local heir = two[2]
    if not heir then
      call('ZREM', queue, two[1])
      call('ZREM', TAG .. 'o:' .. session, mine)
      return {'closed', '1'}
    end
    local head, number, next, claim, info = string.match(heir, '^((%d+) (%S+) (%d+) e %d+ %d+ %d+) 0 0 (.*)$')
    if head then
      local of, clock = call('HMGET', TAG .. 's:' .. next, 'until', 'address'), call('TIME')
      if tonumber(of[1] or '0') > clock[1] * 1000000 + clock[2] and of[2] ~= '' then
        call('ZREM', queue, two[1], heir)
        call('ZADD', queue, number, head .. ' ' .. number .. ' 0 ' .. info)
        call('RPUSH', TAG .. 'm:' .. of[2], '1 ' .. next .. ' ' .. claim .. ' ' .. number .. ' ' .. number)
        call('ZREM', TAG .. 'o:' .. session, mine)
        return {'closed', '1'}
      end
    end
  end
end

