-- The fences of tenure, for PostgreSQL: one row per resource protects every table of this database.
-- Grant INSERT, SELECT and UPDATE on both tables to whoever runs guarded transactions. Never delete rows, and never
-- restore these tables without the data that they protect: a fence that forgets lets stale holders in.

CREATE TABLE tenure_fence (
    resource  varchar(512) PRIMARY KEY,
    token     bigint       NOT NULL,    -- the largest floor that it was raised to; smaller tokens are refused
    seq       bigint       NOT NULL,    -- the largest operation number that was done under this token
    authority varchar(512) NOT NULL     -- whose tokens these are; empty: nobody knows
);

-- What a fence is about to be raised to. A row of its own, since the fence's is locked by those who work under it.
CREATE TABLE tenure_fence_intent (
    resource varchar(512) PRIMARY KEY,
    token    bigint       NOT NULL
);

-- name: look
SELECT fence.token, intent.token, fence.seq, fence.authority
FROM tenure_fence AS fence JOIN tenure_fence_intent AS intent USING (resource)
WHERE fence.resource = :resource

-- name: check
-- Many workers of one holder share the row; a raise waits for them all.
SELECT fence.token, intent.token, fence.seq, fence.authority
FROM tenure_fence AS fence JOIN tenure_fence_intent AS intent USING (resource)
WHERE fence.resource = :resource
FOR SHARE OF fence

-- name: lock
SELECT fence.token, intent.token, fence.seq, fence.authority
FROM tenure_fence AS fence JOIN tenure_fence_intent AS intent USING (resource)
WHERE fence.resource = :resource
FOR UPDATE OF fence

-- name: plant_intent
INSERT INTO tenure_fence_intent (resource, token) VALUES (:resource, 0) ON CONFLICT (resource) DO NOTHING

-- name: plant
INSERT INTO tenure_fence (resource, token, seq, authority) VALUES (:resource, 0, 0, '') ON CONFLICT (resource) DO NOTHING

-- name: announce
UPDATE tenure_fence_intent SET token = :floor WHERE resource = :resource AND token < :floor

-- name: raise
UPDATE tenure_fence SET token = :floor, seq = 0, authority = :authority WHERE resource = :resource AND token < :floor

-- name: number
UPDATE tenure_fence SET seq = :seq WHERE resource = :resource

-- name: adopt
-- By an operator, on purpose: the one statement that may lower a fence.
UPDATE tenure_fence SET token = :token, seq = 0, authority = :authority WHERE resource = :resource

-- name: adopt_intent
UPDATE tenure_fence_intent SET token = :token WHERE resource = :resource
