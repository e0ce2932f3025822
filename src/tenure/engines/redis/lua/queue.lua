-- The steps of a queue, as `tenure.engines.queue.Steps` has them in Python; in every script, after start.lua.
--
-- Promises: the holders are the longest compatible prefix of the queue (model.holders).

local SWEEP = 100  -- dead claims that one step removes; the next live claim is told to go on (B3)
local MAIL_KEPT = 60000  -- milliseconds; of a session that is gone: its client may have another one

-- What plain.lua adds, where the store has plain keys beside its queues; else nil.
local plain

local clock = call('TIME')
local NOW = clock[1] * 1000000 + clock[2]

-- Lua prints large numbers with an exponent.
local function whole(number) return string.format('%.0f', number) end

-- A claim as its queue has it. Numbers that are only compared for being equal stay strings.
local function claim(name, member)
  local number, session, id, kind, permits, limit, delay, floor, freed, info =
    string.match(member, '^(%d+) (%S+) (%d+) (%S) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  return {
    name = name, member = member, number = number, session = session, id = id, kind = kind,
    permits = tonumber(permits), limit = tonumber(limit), delay = tonumber(delay), floor = floor,
    freed = tonumber(freed), info = info
  }
end

local function member(row)
  return table.concat({
    row.number, row.session, row.id, row.kind, row.permits, row.limit, whole(row.delay), row.floor, whole(row.freed),
    row.info
  }, ' ')
end

-- Join in the liveness of its session: `until_` (0 if it is gone or has ended), `ended` (when it did, or 0), `address`.
local function living(row)
  if not row.until_ then
    local of = call('HMGET', TAG .. 's:' .. row.session, 'until', 'ended', 'address')
    row.until_, row.ended, row.address = tonumber(of[1] or '0'), tonumber(of[2] or '0'), of[3] or ''
  end
  return row
end

-- When a claim stops counting. A holder's lock_delay outlasts its session; a waiter's does not (B10).
local function ends(row)
  if row.freed > 0 then return row.freed end
  living(row)
  local till = math.max(row.until_, row.ended)
  if row.delay > 0 and row.floor ~= '0' and till > 0 then return till + row.delay end
  -- A session that is gone, or ended and latched, is dead whatever a clock that was set back says (A3).
  return row.until_
end

-- The longest compatible prefix of the queue. Reads no further than the first claim that does not fit.
local function holders(name)
  local prefix, kind, used, limit = {}, nil, 0, 0
  local from, count = 0, 1
  while true do
    local got = call('ZRANGE', TAG .. 'q:' .. name, from, from + count - 1)
    for _, text in ipairs(got) do
      local row = claim(name, text)
      if not kind then
        kind, limit = row.kind, row.limit
      elseif row.kind ~= kind then
        return prefix
      end
      if kind == 'p' then
        -- The smallest limit among the holders (B5).
        limit = math.min(limit, row.limit)
        used = used + row.permits
        if used > limit then return prefix end
      end
      prefix[#prefix + 1] = row
      if kind == 'e' then return prefix end
    end
    if #got < count then return prefix end
    from, count = from + count, 32
  end
end

-- The nearest claims below a number that together prove a place blocked (B6); empty if nothing does.
local function blockers(name, kind, permits, limit, below)
  local needed, used = {}, permits
  local from, count = 0, 1
  while true do
    local got = call('ZREVRANGEBYSCORE', TAG .. 'q:' .. name, '(' .. below, '-inf', 'LIMIT', from, count)
    for _, text in ipairs(got) do
      local row = claim(name, text)
      if row.kind ~= kind or kind == 'e' then return {row} end
      if kind == 'p' then
        needed[#needed + 1] = row
        used = used + row.permits
        limit = math.min(limit, row.limit)
        if used > limit then return needed end
      end
    end
    if #got < count then return {} end
    from, count = from + count, 32
  end
end

-- The first claim above a number, or nil.
local function after(name, number)
  local got = call('ZRANGEBYSCORE', TAG .. 'q:' .. name, '(' .. number, '+inf', 'LIMIT', 0, 1)
  if got[1] then return claim(name, got[1]) end
end

-- The claim of a session with this number; without one (0), with this id. A number alone does not say whose it is.
local function find(session, id, name, number)
  if number ~= '0' then
    local found = call('ZRANGEBYSCORE', TAG .. 'q:' .. name, number, number)[1]
    local row = found and claim(name, found)
    return row and row.session == session and row or nil
  end
  -- Only whoever got no answer asks like this, so it may cost a look at the whole queue.
  for _, text in ipairs(call('ZRANGE', TAG .. 'q:' .. name, 0, -1)) do
    local row = claim(name, text)
    if row.session == session and row.id == id then return row end
  end
end

-- Whose place is being asked for: "SESSION CLAIM". It learns it from the reply; a message would only fill its mailbox.
local asking = ''

local function push(row, number, floor)
  if row.session .. ' ' .. row.id == asking then return end
  living(row)
  -- Only to a living session: nobody would read it (B4).
  if row.address == '' or row.until_ <= NOW then return end
  call('RPUSH', TAG .. 'm:' .. row.address, table.concat({'1', row.session, row.id, number, floor}, ' '))
end

local function hint(row) push(row, '0', '0') end

local function rewrite(row)
  local key, old = TAG .. 'q:' .. row.name, row.member
  row.member = member(row)
  call('ZREM', key, old)
  call('ZADD', key, row.number, row.member)
end

local function remove(row)
  call('ZREM', TAG .. 'q:' .. row.name, row.member)
  call('ZREM', TAG .. 'o:' .. row.session, row.id .. ' ' .. row.name)
end

-- Remove a claim, and hint the waiter behind one that waited: it watches a claim that is gone (B3, B6).
local function leave(row)
  remove(row)
  if row.floor == '0' then
    local behind = after(row.name, row.number)
    if behind and behind.floor == '0' then hint(behind) end
  end
end

-- Death is latched: neither a late heartbeat nor a clock set back brings a session back (A3).
local function latch(session)
  local key = TAG .. 's:' .. session
  local of = call('HMGET', key, 'until', 'ended')
  if of[1] then
    local till = whole(math.min(tonumber(of[2] or of[1]), NOW))
    call('HSET', key, 'until', '0', 'ended', till)
    call('ZADD', TAG .. 'sessions', till, session)
  end
end

local function latch_owner(row)
  -- A claim whose lock_delay is over was closed by a session that may well live on.
  if row.freed == 0 then latch(row.session) end
end

-- Pass over the dead at the head and tell the holders not yet told; returns the holders.
-- last_gone: the largest number that this step has removed before, as a number; 0 if none.
local function settle(name, last_gone)
  local removed, prefix = 0, nil
  while true do
    prefix = holders(name)
    local gone = {}
    for _, row in ipairs(prefix) do
      if ends(row) <= NOW then gone[#gone + 1] = row end
    end
    if #gone == 0 then break end
    if removed >= SWEEP then
      -- Stopped short: the next live claim goes on.
      local row = after(name, prefix[#prefix].number)
      while row and ends(row) <= NOW do row = after(name, row.number) end
      if row then hint(row) end
      return prefix
    end
    for _, row in ipairs(gone) do
      latch_owner(row)
      remove(row)
      removed = removed + 1
      last_gone = math.max(last_gone, tonumber(row.number))
    end
  end
  local admitted = true
  if plain then admitted = plain.admits(name, prefix, last_gone > 0) end
  for _, row in ipairs(prefix) do
    if row.floor == '0' and admitted then
      row.floor = prefix[1].number
      rewrite(row)
      push(row, row.number, row.floor)
    end
  end
  local last = prefix[#prefix]
  if last and last_gone > 0 and (last.kind == 'p' or (last.kind == 's' and last_gone > tonumber(last.number))) then
    -- What left may be what the first waiter watches, without letting it in: it looks again (B6).
    local first = after(name, last.number)
    if first then hint(first) end
  end
  return prefix
end

-- The claims that block a place, after removing the dead among them.
local function blocked(name, kind, permits, limit, below)
  local rows = {}
  for _ = 1, SWEEP do
    rows = blockers(name, kind, permits, limit, below)
    local gone = {}
    for _, row in ipairs(rows) do
      if ends(row) <= NOW then gone[#gone + 1] = row end
    end
    if #gone == 0 then break end
    for _, row in ipairs(gone) do
      latch_owner(row)
      leave(row)
    end
    settle(name, tonumber(gone[1].number))
  end
  return rows
end

-- As `blocked`, for a claim that stands in the queue; also what bars one that the queue would let hold.
local function in_the_way(row)
  local rows = blocked(row.name, row.kind, row.permits, row.limit, row.number)
  if plain and not rows[1] then return plain.bars_still(row) end
  return rows
end

-- session, address and microseconds left of each, flat.
local function peers(rows)
  local flat = {}
  for _, row in ipairs(rows) do
    local left = math.max(0, ends(row) - NOW)
    living(row)
    flat[#flat + 1] = row.session
    flat[#flat + 1] = row.address
    flat[#flat + 1] = whole(left)
  end
  return flat
end

local function extend(session, ttl)
  -- Before the session is: until when a claim that is lost still blocks, the time of before says.
  if plain then plain.prolong(session, NOW + ttl) end
  local till = whole(NOW + ttl)
  call('HSET', TAG .. 's:' .. session, 'until', till)
  call('ZADD', TAG .. 'sessions', till, session)
end

-- An element of a session's own list, read with scores.
local function owned(own, i)
  local id, name = string.match(own[i], '^(%d+) (.*)$')
  return whole(tonumber(own[i + 1])), id, name
end

-- Remove what is over of an ended session's claims, and the session with the last of them.
local function clear(session)
  local own = call('ZRANGE', TAG .. 'o:' .. session, 0, SWEEP - 1, 'WITHSCORES')
  local again = #own == 2 * SWEEP and NOW or nil
  for i = 1, #own, 2 do
    local number, id, name = owned(own, i)
    local row = find(session, id, name, number)
    if not row then
      call('ZREM', TAG .. 'o:' .. session, own[i])
    elseif ends(row) <= NOW then
      leave(row)
      settle(name, tonumber(number))
    else
      again = math.min(again or math.huge, ends(row))
    end
  end
  if again then
    call('ZADD', TAG .. 'sessions', whole(again), session)
  else
    -- Mail that nobody fetches any more. Not at once: if its client lives, in another session, it is about to.
    call('PEXPIRE', TAG .. 'm:' .. (call('HGET', TAG .. 's:' .. session, 'address') or ''), MAIL_KEPT)
    -- The tombstones go with it: ids are used once, and only an opening request creates a session.
    call('DEL', TAG .. 's:' .. session, TAG .. 'o:' .. session)
    call('ZREM', TAG .. 'sessions', session)
  end
end

-- Remove claims of sessions past their end, so that names which nobody asks for again are cleaned (B3).
local function sweep(limit)
  for _, session in ipairs(call('ZRANGEBYSCORE', TAG .. 'sessions', '-inf', whole(NOW), 'LIMIT', 0, limit)) do
    latch(session)
    clear(session)
  end
end

-- Leave a tombstone in the session's record, so that a late enqueue is refused (B1).
local function bury(session, id)
  local key = TAG .. 's:' .. session
  call('HSET', key, 'tombs', (call('HGET', key, 'tombs') or ' ') .. id .. ' ')
end

