-- The fences of tenure, for MySQL and MariaDB: one row per resource protects every InnoDB table of this server.
-- Grant INSERT, SELECT and UPDATE to whoever runs guarded transactions. Never delete rows, and never restore this table
-- without the data that it protects: a fence that forgets lets stale holders in. InnoDB serves those who wait for a row
-- in their order, so a raise cannot be starved and needs no row to announce itself in. A resource is kept as the bytes
-- of its name, so that no collation takes two names for one.

CREATE TABLE tenure_fence (
    resource  varbinary(512) NOT NULL PRIMARY KEY,
    token     bigint         NOT NULL,    -- the largest floor that it was raised to; smaller tokens are refused
    seq       bigint         NOT NULL,    -- the largest operation number that was done under this token
    authority varchar(512)   NOT NULL     -- whose tokens these are; empty: nobody knows
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- name: check
-- Many workers of one holder share the row; a raise waits for them all. A locking read sees what is committed, whatever
-- the snapshot, and takes none.
SELECT token, 0, seq, authority FROM tenure_fence WHERE resource = :resource LOCK IN SHARE MODE

-- name: lock
SELECT token, 0, seq, authority FROM tenure_fence WHERE resource = :resource FOR UPDATE

-- name: snapshot
-- After the locking read, so that a snapshot which begins here shows all that was committed before the fence rose. An
-- older one shows an older fence, and is found out by it.
SELECT token FROM tenure_fence WHERE resource = :resource

-- name: plant
INSERT IGNORE INTO tenure_fence (resource, token, seq, authority) VALUES (:resource, 0, 0, '')

-- name: raise
UPDATE tenure_fence SET token = :floor, seq = 0, authority = :authority WHERE resource = :resource AND token < :floor

-- name: number
UPDATE tenure_fence SET seq = :seq WHERE resource = :resource

-- name: adopt
-- By an operator, on purpose: the one statement that may lower a fence.
UPDATE tenure_fence SET token = :token, seq = 0, authority = :authority WHERE resource = :resource
