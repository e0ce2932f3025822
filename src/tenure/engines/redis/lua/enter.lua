-- Put a claim into its queue. A repeat finds the first; a tombstone refuses it.
--
-- ARGV[3]  session      ARGV[4]  its ttl
-- ARGV[5]  four digits 0 or 1: open the session if it does not exist; extend it; enter only if that grants it at once;
--          it was sent before, unanswered
-- ARGV[6]  claim        ARGV[7]  name
-- ARGV[8]  kind (e, s or p), permits, limit, lock_delay        ARGV[9]  info
-- ARGV[10..13], to open a session: address, client, host, pid
--
-- Replies: {"gone"} | {"gone" or "busy" or "waits" or "holds", number, floor, stolen or "" if not extended, differing limit,
--          then for each claim that blocks: session, address, microseconds left} | {"exhausted"}

local session, ttl, id, name, info = ARGV[3], tonumber(ARGV[4]), ARGV[6], ARGV[7], ARGV[9]
local opening, extending, once, again = string.match(ARGV[5], '^(.)(.)(.)(.)$')
local kind, permits, limit, delay = string.match(ARGV[8], '^(.) (%d+) (%d+) (%d+)$')
permits, limit = tonumber(permits), tonumber(limit)
local key, stolen = TAG .. 's:' .. session, ''

local record = call('HMGET', key, 'until', 'stolen', 'tombs')
if not record[1] then
  if opening ~= '1' then return {'gone'} end
  sweep(2)
  -- The count of steals begins at the clock, not at 0: should a late opening request make an ended session anew, its
  -- heartbeats differ from those of the first, and its client reconciles (A2, A3).
  stolen = whole(NOW)
  call('HSET', key, 'until', '0', 'stolen', stolen,
    'address', ARGV[10], 'client', ARGV[11], 'host', ARGV[12], 'pid', ARGV[13])
  extend(session, ttl)
else
  if tonumber(record[1]) <= NOW then return {'gone'} end
  if record[3] and string.find(record[3], ' ' .. id .. ' ', 1, true) then return {'gone'} end
  if opening == '1' or extending == '1' then
    extend(session, ttl)
    stolen = plain and plain.counted(session, record[2]) or record[2]
  end
end

if again == '1' then asking = session .. ' ' .. id end
local prefix = settle(name, 0)
local rows, other = {}, '0'
if prefix[1] then
  rows = blocked(name, kind, permits, limit, '+inf')
  if kind == 'p' then
    for _, row in ipairs(prefix) do
      if row.kind == 'p' and row.limit ~= limit then
        other = whole(row.limit)
        break
      end
    end
  end
end
if plain and not rows[1] then rows = plain.bars(name, session, tonumber(delay)) end

local reply
if rows[1] and once == '1' then
  reply = {'busy', '0', '0', stolen, other}
else
  -- Its own list tells a repeat at once, also one that its sender knows nothing of: a proxy between us sent it twice.
  local known = again == '1' or (record[1] and call('ZSCORE', TAG .. 'o:' .. session, id .. ' ' .. name))
  local row = known and find(session, id, name, '0')
  if row and row.freed == 0 then
    -- A repeat. Settling has told it if it holds; the answer says so too.
    if row.floor ~= '0' then return {'holds', row.number, row.floor, stolen, '0'} end
    reply, rows = {'waits', row.number, '0', stolen, '0'}, in_the_way(row)
  elseif row then
    return {'gone', '0', '0', stolen, '0'}
  else
    local number = math.max(tonumber(genesis[3]) + 1, NOW)
    if number > 9007199254740991 then return {'exhausted'} end
    number = whole(number)
    local floor = rows[1] and '0' or (prefix[1] and prefix[1].number or number)
    call('HSET', KEYS[1], 'last', number)
    if plain and delay ~= '0' then call('HSET', key, 'delays', '1') end
    call('ZADD', TAG .. 'q:' .. name, number, table.concat({number, session, id, ARGV[8], floor, '0', info}, ' '))
    call('ZADD', TAG .. 'o:' .. session, number, id .. ' ' .. name)
    reply = {rows[1] and 'waits' or 'holds', number, floor, stolen, other}
  end
end
for _, value in ipairs(peers(rows)) do reply[#reply + 1] = value end
return reply
