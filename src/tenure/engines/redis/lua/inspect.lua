-- The queue of a name, in order; reads only, so the dead not yet passed over are still shown.
--
-- ARGV[3] name
--
-- Replies: {"queue", for each claim: number, kind, permits, limit, client, host, pid, info, floor}

local reply = {'queue'}
for _, text in ipairs(call('ZRANGE', TAG .. 'q:' .. ARGV[3], 0, -1)) do
  local row = claim(ARGV[3], text)
  local of = call('HMGET', TAG .. 's:' .. row.session, 'client', 'host', 'pid')
  local values = {
    row.number, row.kind, whole(row.permits), whole(row.limit), of[1] or '', of[2] or '', of[3] or '0', row.info,
    row.floor
  }
  for _, value in ipairs(values) do reply[#reply + 1] = value end
end
return reply
