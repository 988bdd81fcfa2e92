BEGIN TRANSACTION;
CREATE TABLE conversations (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  created REAL NOT NULL,
  used REAL NOT NULL,
  bytes INTEGER NOT NULL,
  metadata BLOB NOT NULL
) WITHOUT ROWID;
INSERT INTO "conversations" VALUES('conv_2ded2bd41933ac17a2581f88d1b165a7','t',1790000000.0,1790000000.0,777,X'7B2261223A2262227D');
CREATE TABLE items (
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  conversation TEXT NOT NULL,
  id TEXT NOT NULL,
  body BLOB NOT NULL
);
INSERT INTO "items" VALUES(1,'conv_2ded2bd41933ac17a2581f88d1b165a7','msg_0',X'7B226964223A226D73675F30227D');
INSERT INTO "items" VALUES(2,'conv_2ded2bd41933ac17a2581f88d1b165a7','msg_1',X'7B226964223A226D73675F31227D');
CREATE TABLE owners (owner TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "owners" VALUES('t',777);
CREATE INDEX conversations_used ON conversations (used);
CREATE INDEX conversations_of_owner ON conversations (owner, used);
CREATE UNIQUE INDEX items_by_id ON items (conversation, id);
CREATE INDEX items_in_order ON items (conversation, position);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('items',2);
COMMIT;
PRAGMA application_id = 1346719299;
PRAGMA user_version = 1;
