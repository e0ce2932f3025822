-- Put a claim into its queue. A repeat finds the first; a tombstone refuses it.
--
-- ARGV[3]  session      ARGV[4]  1: open it if it does not exist    ARGV[5]  1: extend it    ARGV[6]  its ttl
-- ARGV[7]  claim        ARGV[8]  name                               ARGV[9]  kind: e, s or p
-- ARGV[10] permits      ARGV[11] limit                              ARGV[12] lock_delay
-- ARGV[13] 1: enter only if that grants it at once                  ARGV[14] 1: it was sent before, unanswered
-- ARGV[15] info         ARGV[16..19], to open a session: address, client, host, pid
--
-- Replies: {"gone"} | {"gone" or "busy" or "waits" or "holds", number, floor, stolen or "" if not extended, differing limit,
--          then for each claim that blocks: session, address, microseconds left} | {"exhausted"}

local session, id, name = ARGV[3], ARGV[7], ARGV[8]
local kind, permits, limit, delay = ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11]), ARGV[12]
local key, stolen = TAG .. 's:' .. session, ''

local record = call('HMGET', key, 'until', 'ended', 'stolen', 'tombs')
if not record[1] then
  if ARGV[4] ~= '1' then return {'gone'} end
  sweep(2)
  -- The count of steals begins at the clock, not at 0: should a late opening request make an ended session anew, its
  -- heartbeats differ from those of the first, and its client reconciles (A2, A3).
  stolen = whole(NOW)
  call('HSET', key, 'until', '0', 'ended', '0', 'stolen', stolen,
    'address', ARGV[16], 'client', ARGV[17], 'host', ARGV[18], 'pid', ARGV[19])
  extend(session, tonumber(ARGV[6]))
else
  if record[2] ~= '0' or tonumber(record[1]) <= NOW then return {'gone'} end
  if record[4] and string.find(record[4], ' ' .. id .. ' ', 1, true) then return {'gone'} end
  if ARGV[4] == '1' or ARGV[5] == '1' then
    extend(session, tonumber(ARGV[6]))
    stolen = record[3]
  end
end

if ARGV[14] == '1' then asking = session .. ' ' .. id end
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

local reply
if rows[1] and ARGV[13] == '1' then
  reply = {'busy', '0', '0', stolen, other}
else
  -- Its own list tells a repeat at once, also one that its sender knows nothing of: a proxy between us sent it twice.
  local known = ARGV[14] == '1' or (record[1] and call('ZCOUNT', TAG .. 'o:' .. session, id, id) > 0)
  local row = known and find(session, id, name, '0')
  if row and row.freed == 0 then
    -- A repeat. Settling has told it if it holds; the answer says so too.
    if row.floor ~= '0' then return {'holds', row.number, row.floor, stolen, '0'} end
    reply, rows = {'waits', row.number, '0', stolen, '0'}, blocked(name, row.kind, row.permits, row.limit, row.number)
  elseif row then
    return {'gone', '0', '0', stolen, '0'}
  else
    local number = math.max(tonumber(genesis[3]) + 1, NOW)
    if number > 9007199254740991 then return {'exhausted'} end
    number = whole(number)
    local floor = rows[1] and '0' or (prefix[1] and prefix[1].number or number)
    call('HSET', KEYS[1], 'last', number)
    call('ZADD', TAG .. 'q:' .. name, number,
      table.concat({session, id, kind, ARGV[10], ARGV[11], delay, floor, '0', ARGV[15]}, ' '))
    call('ZADD', TAG .. 'o:' .. session, id, number .. ' ' .. name)
    reply = {rows[1] and 'waits' or 'holds', number, floor, stolen, other}
  end
end
for _, value in ipairs(peers(rows)) do reply[#reply + 1] = value end
return reply
