-- The fences of tenure, for SQLite: one row per resource protects every table of this file.
-- Never delete rows, and never restore this table without the data that it protects: a fence that forgets lets stale
-- holders in. There is one writer at a time, so a raise cannot be starved and needs no row to announce itself in.

CREATE TABLE tenure_fence (
    resource  TEXT    NOT NULL PRIMARY KEY,
    token     INTEGER NOT NULL,    -- the largest floor that it was raised to; smaller tokens are refused
    seq       INTEGER NOT NULL,    -- the largest operation number that was done under this token
    authority TEXT    NOT NULL     -- whose tokens these are; empty: nobody knows
) WITHOUT ROWID;

-- name: check
SELECT token, 0, seq, authority FROM tenure_fence WHERE resource = :resource

-- name: lock
SELECT token, 0, seq, authority FROM tenure_fence WHERE resource = :resource

-- name: join
-- Changes nothing, and makes this transaction the writer until it ends; refused if what it has read is out of date.
UPDATE tenure_fence SET token = token WHERE 0

-- name: plant
INSERT INTO tenure_fence (resource, token, seq, authority) VALUES (:resource, 0, 0, '') ON CONFLICT (resource) DO NOTHING

-- name: raise
UPDATE tenure_fence SET token = :floor, seq = 0, authority = :authority WHERE resource = :resource AND token < :floor

-- name: number
UPDATE tenure_fence SET seq = :seq WHERE resource = :resource

-- name: adopt
-- By an operator, on purpose: the one statement that may lower a fence.
UPDATE tenure_fence SET token = :token, seq = 0, authority = :authority WHERE resource = :resource
