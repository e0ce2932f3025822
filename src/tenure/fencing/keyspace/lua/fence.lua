-- What the scripts of a fence begin with: the fence, as it stands, and how numbers are compared.
--
-- Promises: one script is one atomic step. Tokens are decimals without leading zeros, and never become numbers here: a
-- double is exact to 2^53 only, and tokens go to 2^63. The shorter one is the smaller; of two that are as long, digits
-- decide, in whatever order of language the server was started with.
--
-- KEYS[1]  the fence: a hash of token (the largest floor that it was raised to), seq (the largest operation number that
--          was done under it) and authority (whose tokens these are; empty: nobody knows). It never expires: a fence
--          that forgets lets stale holders in.
-- ARGV[1]  the token of the caller; ARGV[2] its floor; ARGV[3] its authority; ARGV[4] its operation number, or 0

local function below(one, other) return #one < #other or (#one == #other and one < other) end

local fence = redis.call('HMGET', KEYS[1], 'token', 'seq', 'authority')
local token, seq, authority = fence[1] or '0', fence[2] or '0', fence[3] or ''
local foreign = authority ~= '' and ARGV[3] ~= '' and authority ~= ARGV[3]
local stale = foreign or below(ARGV[1], token)

