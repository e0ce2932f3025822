-- Say where a claim stands, after passing over the dead in front of it.
--
-- ARGV[3] session   ARGV[4] claim   ARGV[5] name   ARGV[6] number, 0 if unknown
-- ARGV[7] 1: write something, so that what a replica acknowledges of this connection includes the grant
--
-- Replies: {"gone"} | {"waits" or "holds", number, floor, "", "0", then as enter: the claims that block}

local row = find(ARGV[3], ARGV[4], ARGV[5], ARGV[6])
if not row or row.freed > 0 then return {'gone'} end
living(row)
if row.until_ <= NOW then return {'gone'} end
asking = row.session .. ' ' .. row.id
local prefix = settle(row.name, 0)
local rows = in_the_way(row)
if rows[1] then
  local reply = {'waits', row.number, '0', '', '0'}
  for _, value in ipairs(peers(rows)) do reply[#reply + 1] = value end
  return reply
end
local floor = row.floor
if floor == '0' then
  -- Settling, or what `in_the_way` removed, has told it just now.
  local told = find(row.session, row.id, row.name, row.number)
  floor = told and told.floor ~= '0' and told.floor or prefix[1].number
end
if ARGV[7] == '1' then call('HSET', TAG .. 's:' .. row.session, 'until', whole(row.until_)) end
return {'holds', row.number, floor, '', '0'}
