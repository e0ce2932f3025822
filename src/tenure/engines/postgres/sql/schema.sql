-- Format 1 of the PostgreSQL engine: the tables. Run in the schema that is to hold them, as the first of search_path.
--
-- All times are microseconds of the server's clock. Every row that a step waits for is locked first and judged by a
-- clock that is read after the wait (rule C2). Locks are taken in one order, names by their bytes, then sessions.

-- One row: whose store this is, and the numbers of names that have no row any more (rules B7, B12).
CREATE TABLE genesis (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    format  integer NOT NULL,
    id      text    NOT NULL,              -- random; another id is another store
    steps   text    NOT NULL,              -- which text of the functions is in force
    retired bigint  NOT NULL DEFAULT 0,    -- the largest number of any name whose row was collected
    ceiling bigint  NOT NULL DEFAULT 0,    -- no commit that was not synced has a number above this one; 0: there was none
    base    bigint  NOT NULL DEFAULT 0,    -- numbers are larger: the ceiling when the server was last started
    started timestamptz                    -- which start of the server the ceiling belongs to
);

-- The lock of each name, and its counter. The row outlives the queue until it is collected.
CREATE TABLE names (
    name text COLLATE "C" PRIMARY KEY,
    last bigint NOT NULL                   -- the largest number given
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);

-- A client's liveness. `ended` is latched: neither a late heartbeat nor a clock set back undoes it (rule A3). No column
-- that a heartbeat changes is indexed, so that it stays within its page (HOT) and leaves nothing to the indexes.
CREATE TABLE sessions (
    id         text COLLATE "C" PRIMARY KEY,
    until_us   bigint   NOT NULL,
    ended      boolean  NOT NULL,
    stolen     bigint   NOT NULL,          -- how many of its claims were stolen, beginning at the clock (rule A2)
    address    text     NOT NULL,          -- its channel (NOTIFY); one that begins with poll_ is asked for in `mail`
    client     text     NOT NULL,
    host       text     NOT NULL,
    pid        bigint   NOT NULL,
    tombstones bigint[] NOT NULL           -- claims whose late enqueue is refused (rule B1)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);

-- The queues. No foreign key and no cascade: a session's end removes no claim behind the back of a name's lock.
CREATE TABLE claims (
    name     text COLLATE "C" NOT NULL,
    number   bigint   NOT NULL,            -- place and fencing token
    session  text COLLATE "C" NOT NULL,
    claim    bigint   NOT NULL,            -- unique within its session, used once
    kind     smallint NOT NULL,            -- 0 exclusive, 1 shared, 2 permits
    permits  bigint   NOT NULL,
    "limit"  bigint   NOT NULL,
    delay_us bigint   NOT NULL,            -- lock_delay (rule B10)
    floor    bigint   NOT NULL,            -- the floor its holder was told; 0 = not yet told (rules B3, B8)
    freed_us bigint   NOT NULL DEFAULT 0,  -- closed uncleanly with a delay: blocks until then; 0 = open
    info     text     NOT NULL,
    PRIMARY KEY (name, number),
    UNIQUE (session, claim)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);

-- Messages of clients that cannot listen, because a pooler is in between. A crash may lose them, as it may a
-- notification; they cost no log.
CREATE UNLOGGED TABLE mail (
    address text COLLATE "C" NOT NULL,
    message text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);

CREATE INDEX mail_address ON mail (address);

-- A claim with the liveness of its session. A session that is gone is dead.
CREATE VIEW placed AS
    SELECT c.*, coalesce(s.until_us, 0) AS until_us, coalesce(s.ended, true) AS ended, coalesce(s.address, '') AS address
      FROM claims c LEFT JOIN sessions s ON s.id = c.session;
