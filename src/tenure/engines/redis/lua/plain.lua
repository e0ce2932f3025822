-- Beside each queue a plain key, which locks of the kind `SET key value NX PX` go by; after queue.lua, in every script of
-- a store whose genesis record has a template for such keys (format 2).
--
-- Promises: a claim is told that it holds only in a step that finds the key free or ours; from then on the key is ours,
-- and lasts at least as long as the claim counts. A holder whose key is gone, or another's, is extended no more: its
-- claim blocks until its session would have ended, or until its client, which the next heartbeat tells, has closed it.
-- Does not promise anything against whoever deletes a key that is not his: between that and the next heartbeat of the
-- holder, somebody else may hold the name.
--
-- The key is the store's, not a claim's, so that a hand-over within a queue leaves it alone. Nothing more is needed: who
-- holds is in the queue, and queue and key are changed in one step. Its value says whose it is, and since when.

local VALUE = 'tenure ' .. string.sub(TAG, 1, -2) .. ' '
local POLL = 100000  -- whoever holds a plain key tells nobody when he lets go: the first in the queue looks this often
local TURN = 1000000  -- after so long in one queue the key is left free for a while: others cannot queue, and would starve
local BREAK = 150  -- milliseconds; one and a half times as long as redis-py sleeps between its attempts

local template = call('HGET', KEYS[1], 'plain')
local cut, past = string.find(template, '{name}', 1, true)

local function key_of(name) return string.sub(template, 1, cut - 1) .. name .. string.sub(template, past + 1) end

-- Since when the key is ours; nil if it is not. MGET, for GET fails on what is no string, and other libraries keep a lock
-- in a hash.
local function since(value)
  if value and string.sub(value, 1, #VALUE) == VALUE then return tonumber(string.sub(value, #VALUE + 1)) end
end

local function ours(name) return since(call('MGET', key_of(name))[1]) end

-- Whole milliseconds, and never before the time itself.
local function at(till) return whole(math.ceil(till / 1000)) end

-- Take the key, or keep it, until a time; false if it is another's, or others have their turn.
local function take(name, till)
  if ours(name) then
    call('PEXPIREAT', key_of(name), at(till))
    return true
  end
  if call('EXISTS', TAG .. 'b:' .. name) == 1 then return false end
  return call('SET', key_of(name), VALUE .. whole(NOW), 'NX', 'PXAT', at(till))
end

local function drop(name)
  if ours(name) then call('DEL', key_of(name)) end
end

-- When the last of some claims stops counting, if all of them hold: those not told yet have their lock_delay from then on.
local function latest(rows)
  local till = NOW
  for _, row in ipairs(rows) do till = math.max(till, ends(row) + (row.floor == '0' and row.delay or 0)) end
  return till
end

-- The holders have lost the key. All of them, for who takes it anew would hide that from those who look later.
local function forfeit(prefix)
  for _, row in ipairs(prefix) do
    if row.floor ~= '0' and row.freed == 0 then
      row.freed = ends(row)
      rewrite(row)
      -- A repeat of its enqueue must not bring it back (B1).
      bury(row.session, row.id)
      call('HINCRBY', TAG .. 's:' .. row.session, 'lost', 1)
    end
  end
end

-- A lock that is not ours, or its turn, as a claim that blocks. How long it will is not known: until the next look.
local function stranger(name)
  local left = math.max(call('PTTL', key_of(name)), call('PTTL', TAG .. 'b:' .. name))
  local until_ = NOW + (left < 0 and POLL or math.min(left * 1000, POLL))
  return {session = '', address = '', until_ = until_, ended = 0, delay = 0, floor = '0', freed = 0}
end

plain = {}

-- How many claims a session has lost, behind its count of steals: another number makes another life of the store (A2).
function plain.counted(session, stolen) return stolen .. ' ' .. (call('HGET', TAG .. 's:' .. session, 'lost') or '0') end

-- Whether a holder still has the key.
function plain.stands(row) return ours(row.name) ~= nil end

-- Whether the holders by the queue may be told so. Keeps the key for them, also for those who have lost it, until they can
-- know; lets go of it if there are none.
-- gone: whether this step has removed a claim.
function plain.admits(name, prefix, gone)
  if not prefix[1] then
    drop(name)
    return true
  end
  local taken = ours(name)
  for _, row in ipairs(prefix) do
    if row.floor ~= '0' and row.freed == 0 then
      if not taken then forfeit(prefix) end
      break
    end
  end
  if taken and prefix[1].floor == '0' and NOW - taken > TURN then
    call('DEL', key_of(name))
    call('SET', TAG .. 'b:' .. name, '', 'PX', BREAK)
  end
  if take(name, latest(prefix)) then return true end
  for _, row in ipairs(prefix) do
    -- They counted on the end of what is gone; now the first of them is to look, and the others watch it.
    if gone and row.floor == '0' then hint(row) end
  end
  return false
end

-- What keeps a new claim from holding although the queue would let it; takes the key if nothing does.
function plain.bars(name, session, delay)
  local prefix = holders(name)
  for _, row in ipairs(prefix) do
    if row.floor == '0' then return {row} end
  end
  local till = tonumber(call('HGET', TAG .. 's:' .. session, 'until')) + delay
  return take(name, math.max(latest(prefix), till)) and {} or {stranger(name)}
end

-- As `bars`, for a claim in the queue, after it was settled.
function plain.bars_still(claim)
  for _, row in ipairs(holders(claim.name)) do
    if row.number == claim.number then return row.floor == '0' and {stranger(claim.name)} or {} end
    if row.floor == '0' then return {row} end
  end
  return {}
end

-- A key is kept longer, never cut short: those who hold together share it.
local function keep(name, till)
  if call('PTTL', key_of(name)) * 1000 < till - NOW then call('PEXPIREAT', key_of(name), at(till)) end
end

-- A session is about to be extended: so are the keys of the claims that hold under it, unless they are lost.
function plain.prolong(session, till)
  local own = call('ZRANGE', TAG .. 'o:' .. session, 0, -1)
  local of = call('HMGET', TAG .. 's:' .. session, 'delays', 'lost')
  for first = 1, #own, SWEEP do
    local names, keys = {}, {}
    for i = first, math.min(first + SWEEP - 1, #own) do
      names[#names + 1] = string.match(own[i], '^%d+ (.*)$')
      keys[#keys + 1] = key_of(names[#names])
    end
    for i, value in ipairs(call('MGET', unpack(keys))) do
      if since(value) and not of[1] and not of[2] then
        -- One that waits is not told from one that holds, for there may be ten thousand: when the holder in front of it
        -- ends, the key is to stay all the same.
        keep(names[i], till)
      else
        local id = string.match(own[first + i - 1], '^%d+')
        local number = whole(tonumber(call('ZSCORE', TAG .. 'o:' .. session, own[first + i - 1]) or '0'))
        local row = find(session, id, names[i], number)
        if row and row.floor ~= '0' and row.freed == 0 then
          if since(value) then keep(names[i], till + row.delay) else settle(names[i], 0) end
        end
      end
    end
  end
end

