-- What every script begins with: the names of the keys, and the check that this store is the one that is meant.
--
-- Promises: one script is one atomic step. Does not promise durability: a server that forgets is noticed by its genesis
-- record, its run_id and its counters.
--
-- KEYS[1]  "{namespace:partition}:genesis". All other keys begin with the same hash tag, so that they share its slot;
--          they cannot be declared, for only the queue says whose sessions they are.
-- ARGV[1]  the format that the caller speaks; ARGV[2] the store's random id, as the caller knows it
--
-- {namespace:partition}:genesis   hash: format, id, partitions, hash (how names are spread over them), last (the largest
--                 number given); in format 2 also plain (what the plain keys look like, plain.lua). Never expires
--                 (B12, B7).
-- ...:s:SESSION   hash: until (0 once it has ended), ended (when it did), stolen, tombs (closed claims: " 3 7 "), address,
--                 client, host, pid; in format 2, if there are such: lost (how many of its claims have lost their plain key),
--                 delays (1: some of them have a lock_delay)
-- ...:o:SESSION   sorted set: its claims, "CLAIM NAME" by number
-- ...:sessions    sorted set: sessions by the time at which a sweep has to look at them
-- ...:q:NAME      sorted set: claims by number, "NUMBER SESSION CLAIM KIND PERMITS LIMIT DELAY FLOOR FREED INFO"
-- ...:b:NAME      string: the plain key of the name is left to others, until this expires (plain.lua)
-- ...:m:ADDRESS   list: the mailbox of a client, "1 SESSION CLAIM NUMBER FLOOR"; expires after its session was removed
--
-- Times are microseconds of the server's clock. They and the numbers stay below 2^53, where a double is exact.
-- A reply is an array whose first element says what it is.
--
-- What a hand-over costs is mostly what a script calls, and what it makes the server print and read as text: a score
-- costs more than a member, so the number is in both. `enter` and `close` therefore begin with the usual case on its
-- own; whatever is not that case goes on to queue.lua, from the beginning.

local call, TAG = redis.call, string.sub(KEYS[1], 1, -8)  -- without "genesis"

local genesis = call('HMGET', KEYS[1], 'format', 'id', 'last')
if genesis[1] ~= ARGV[1] or genesis[2] ~= ARGV[2] then
  -- Nothing is touched: the store is empty, another one, or of a format that the caller does not speak (B12).
  return {
    'genesis', genesis[1] or '', genesis[2] or '', genesis[3] or '0', call('HGET', KEYS[1], 'partitions') or ''
  }
end

