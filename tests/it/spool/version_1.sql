-- A database as the first version of the program left it: two pending messages, one parked, one value.
PRAGMA page_size=4096;
PRAGMA auto_vacuum=INCREMENTAL;
PRAGMA journal_mode=WAL;
CREATE TABLE meta(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
CREATE TABLE ledger(id INTEGER PRIMARY KEY CHECK (id = 1), next_seq INTEGER NOT NULL,
    pending INTEGER NOT NULL, pending_bytes INTEGER NOT NULL, parked INTEGER NOT NULL,
    parked_bytes INTEGER NOT NULL, dedup INTEGER NOT NULL, lanes INTEGER NOT NULL);
CREATE TABLE lane(id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, grp TEXT NOT NULL,
    UNIQUE(key, grp));
CREATE TABLE msg(seq INTEGER PRIMARY KEY, dedup BLOB, body BLOB NOT NULL);
CREATE TABLE idx(seq INTEGER PRIMARY KEY, lane INTEGER NOT NULL, received_ms INTEGER NOT NULL,
    len INTEGER NOT NULL);
CREATE TABLE parked(seq INTEGER PRIMARY KEY, lane INTEGER NOT NULL, received_ms INTEGER NOT NULL,
    len INTEGER NOT NULL, parked_ms INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE parked_group(grp TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE dedup(key BLOB PRIMARY KEY, seq INTEGER NOT NULL, expires_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX dedup_expires ON dedup(expires_ms);
CREATE TABLE state(namespace TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, expires_ms INTEGER,
    PRIMARY KEY(namespace, key)) WITHOUT ROWID;
CREATE INDEX state_expires ON state(expires_ms) WHERE expires_ms IS NOT NULL;
INSERT INTO ledger VALUES(1, 4, 2, 8, 1, 3, 1, 1);
INSERT INTO meta VALUES('schema', 1);
INSERT INTO lane(key, grp) VALUES('' || char(31) || 'app' || char(31) || 'device', 'app');
INSERT INTO msg VALUES(1, NULL, CAST('one' AS BLOB)), (2, x'00112233445566778899aabbccddeeff', CAST('two' AS BLOB)),
    (3, NULL, CAST('three' AS BLOB));
INSERT INTO idx VALUES(1, 1, 1700000000000, 3), (3, 1, 1700000000002, 5);
INSERT INTO parked VALUES(2, 1, 1700000000001, 3, 1700000000005, 'too_large', 'why');
INSERT INTO parked_group VALUES('app', 1);
INSERT INTO dedup VALUES(x'00112233445566778899aabbccddeeff', 2, 4000000000000);
INSERT INTO state VALUES('dps', 'device', CAST('hub' AS BLOB), NULL);
