-- Put in front of every script on a cluster: refuses to run while the slot of its keys is being moved.
--
-- Only KEYS[1] is declared, so the server lets a script begin whose other keys have gone ahead to the slot's new master,
-- or which nobody has made yet: their use fails in the middle, and what was written before stands. A key that never
-- exists is the first to fail, before anything is written. (The new master, asked with ASKING, would run the script on
-- whatever keys have arrived, and grant a name that is held: the client never does that.)
--
-- KEYS[1] any key of the slot
--
-- Replies: {"moving"}, or goes on

local absent = redis.pcall('EXISTS', KEYS[1] .. ':absent')
if type(absent) == 'table' and absent.err then return {'moving'} end

