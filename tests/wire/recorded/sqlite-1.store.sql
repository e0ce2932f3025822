PRAGMA application_id = 1953395301;
PRAGMA page_size = 512;
PRAGMA journal_mode = WAL;
CREATE TABLE genesis (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    format  INTEGER NOT NULL,
    id      TEXT    NOT NULL,
    clock   TEXT    NOT NULL,
    last    INTEGER NOT NULL,
    ceiling INTEGER NOT NULL
);
CREATE TABLE sessions (
    id         TEXT    NOT NULL PRIMARY KEY,
    until_us   INTEGER NOT NULL,
    ended      INTEGER NOT NULL,
    stolen     INTEGER NOT NULL,
    address    TEXT    NOT NULL,
    client     TEXT    NOT NULL,
    host       TEXT    NOT NULL,
    pid        INTEGER NOT NULL,
    tombstones TEXT    NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_until ON sessions (until_us);
CREATE TABLE claims (
    name     TEXT    NOT NULL,
    number   INTEGER NOT NULL,
    session  TEXT    NOT NULL,
    claim    INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    permits  INTEGER NOT NULL,
    "limit"  INTEGER NOT NULL,
    delay_us INTEGER NOT NULL,
    floor    INTEGER NOT NULL,
    freed_us INTEGER NOT NULL,
    info     TEXT    NOT NULL,
    PRIMARY KEY (name, number)
) WITHOUT ROWID;
INSERT INTO genesis VALUES (1, 1, '0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f', 'BOOT', 1764000000000006, 1764000060000001);
INSERT INTO sessions VALUES ('a', NOW+1000s, 0, 1764000000000001, 'at-a', 'client a', 'host.example', 197, '');
INSERT INTO sessions VALUES ('b', NOW+1000s, 0, 1764000000000002, 'at-b', 'client b', 'host.example', 198, ' 7 ');
INSERT INTO claims VALUES ('wire:catalogue', 1764000000000004, 'a', 3, 1, 1, 1, 0, 1764000000000004, 0, '');
INSERT INTO claims VALUES ('wire:catalogue', 1764000000000005, 'b', 3, 1, 1, 1, 0, 1764000000000004, 0, '');
INSERT INTO claims VALUES ('wire:device', 1764000000000003, 'a', 2, 0, 1, 1, 400000000, 1764000000000003, 0, '');
INSERT INTO claims VALUES ('wire:encoders', 1764000000000006, 'a', 4, 2, 2, 3, 0, 1764000000000006, 0, '');
INSERT INTO claims VALUES ('wire:orders/42', 1764000000000001, 'a', 1, 0, 1, 1, 0, 1764000000000001, 0, 'nightly');
INSERT INTO claims VALUES ('wire:orders/42', 1764000000000002, 'b', 1, 0, 1, 1, 0, 0, 0, '');
