-- The usual request: an exclusive claim, sent once, of a session that lives, where nobody, or nobody dead, is in front.
-- The same as enter.lua has it, function by function; what is read here is written only when all of it fits.

if ARGV[5] == '0000' and string.sub(ARGV[8], 1, 1) == 'e' then
  local session, name = ARGV[3], ARGV[7]
  local record, clock = call('HMGET', TAG .. 's:' .. session, 'until', 'tombs'), call('TIME')
  local now, last = clock[1] * 1000000 + clock[2], tonumber(genesis[3])
  if record[1] and not record[2] and tonumber(record[1]) > now and last < 9007199254740991 and now < 9007199254740991 then
    local queue, number = TAG .. 'q:' .. name, string.format('%.0f', last < now and now or last + 1)
    local reply, floor = nil, '0'
    local head = call('ZRANGE', queue, 0, 0)[1]
    if not head then
      reply, floor = {'holds', number, number, '', '0'}, number
    else
      local holder, told = string.match(head, '^%d+ (%S+) %d+ e %d+ %d+ 0 (%d+) 0 ')
      if told and told ~= '0' then
        local nearest = string.match(call('ZREVRANGE', queue, 0, 0)[1], '^%d+ (%S+) ')
        local peer = call('HMGET', TAG .. 's:' .. nearest, 'until', 'address')
        local left = tonumber(peer[1] or '0') - now
        if left > 0 and (holder == nearest or tonumber(call('HGET', TAG .. 's:' .. holder, 'until') or '0') > now) then
          reply = {'waits', number, '0', '', '0', nearest, peer[2], left}
        end
      end
    end
    -- Its own list has it already if it is a repeat, which its sender may not know of.
    if reply and call('ZADD', TAG .. 'o:' .. session, 'NX', number, ARGV[6] .. ' ' .. name) == 1 then
      call('HSET', KEYS[1], 'last', number)
      call('ZADD', queue, number,
        number .. ' ' .. session .. ' ' .. ARGV[6] .. ' ' .. ARGV[8] .. ' ' .. floor .. ' 0 ' .. ARGV[9])
      return reply
    end
  end
end

