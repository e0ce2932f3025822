-- Make the genesis record of a partition, unless it has one; the first to come decides (B12).
--
-- KEYS[1] "{namespace:partition}:genesis"
-- ARGV[1] format   ARGV[2] a random id   ARGV[3] partitions of the namespace   ARGV[4] the hash that spreads names
-- ARGV[5] in format 2: what the plain keys look like, with {name} in it
--
-- Replies: {format, id, last, partitions, the server's clock in microseconds, hash, plain} as they are now in force

if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'format', ARGV[1], 'id', ARGV[2], 'last', '0', 'partitions', ARGV[3], 'hash', ARGV[4])
  if ARGV[1] == '2' then redis.call('HSET', KEYS[1], 'plain', ARGV[5]) end
end
local record = redis.call('HMGET', KEYS[1], 'format', 'id', 'last', 'partitions', 'hash', 'plain')
local time = redis.call('TIME')
return {
  record[1] or '', record[2] or '', record[3] or '', record[4] or '',
  string.format('%.0f', time[1] * 1000000 + time[2]), record[5] or '', record[6] or ''
}
