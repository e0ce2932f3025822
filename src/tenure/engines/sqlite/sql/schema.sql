-- Format 1 of the embedded engine. All times are microseconds; those named until and freed are of the boot-time clock
-- of `genesis.clock`. A claim's number is the wall clock at which it entered, as long as that clock is not set back.

-- One row. Every step compares format, id and clock with what it opened, in its own transaction (rule B12).
CREATE TABLE genesis (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    format  INTEGER NOT NULL,
    id      TEXT    NOT NULL,              -- random; another id is another store
    clock   TEXT    NOT NULL,              -- boot id and time namespace of the times below
    last    INTEGER NOT NULL,              -- the largest number given
    ceiling INTEGER NOT NULL               -- no number above this one was ever given; committed with fsync (rule B7)
);

-- A client's liveness. `ended` is latched: neither a late heartbeat nor a clock set back undoes it (rule A3).
CREATE TABLE sessions (
    id         TEXT    NOT NULL PRIMARY KEY,
    until_us   INTEGER NOT NULL,
    ended      INTEGER NOT NULL,
    stolen     INTEGER NOT NULL,           -- how many of its claims were stolen (rule A2)
    address    TEXT    NOT NULL,           -- its presence file and sockets, in the folder beside this file
    client     TEXT    NOT NULL,
    host       TEXT    NOT NULL,
    pid        INTEGER NOT NULL,
    tombstones TEXT    NOT NULL            -- claims whose late enqueue is refused: ' 3 17 ' (rule B1)
) WITHOUT ROWID;

CREATE INDEX sessions_until ON sessions (until_us);

-- The queues. A second index by session would cost a tenth of every hand-over; what asks by session is rare and scans.
CREATE TABLE claims (
    name     TEXT    NOT NULL,
    number   INTEGER NOT NULL,             -- place and fencing token
    session  TEXT    NOT NULL,
    claim    INTEGER NOT NULL,             -- unique within its session, used once
    kind     INTEGER NOT NULL,             -- 0 exclusive, 1 shared, 2 permits
    permits  INTEGER NOT NULL,
    "limit"  INTEGER NOT NULL,
    delay_us INTEGER NOT NULL,             -- lock_delay (rule B10)
    floor    INTEGER NOT NULL,             -- the floor its holder was told; 0 = not yet told (rules B3, B8)
    freed_us INTEGER NOT NULL,             -- closed uncleanly with a delay: blocks until then; 0 = open
    info     TEXT    NOT NULL,
    PRIMARY KEY (name, number)
) WITHOUT ROWID;
