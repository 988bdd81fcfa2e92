BEGIN TRANSACTION;
CREATE TABLE blocks (
  owner TEXT NOT NULL,
  digest BLOB NOT NULL,
  size INTEGER NOT NULL,
  charged INTEGER NOT NULL,
  file TEXT NOT NULL,
  used REAL NOT NULL,
  PRIMARY KEY (owner, digest)
) WITHOUT ROWID;
INSERT INTO "blocks" VALUES('t',X'6464646464646464646464646464646464646464646464646464646464646464',4,4096,'f1',1790000000.0);
CREATE TABLE segments (
  upload TEXT NOT NULL,
  position INTEGER NOT NULL,
  digest BLOB NOT NULL,
  size INTEGER NOT NULL,
  owner TEXT NOT NULL,
  PRIMARY KEY (upload, position)
) WITHOUT ROWID;
INSERT INTO "segments" VALUES('upload_1',0,X'6464646464646464646464646464646464646464646464646464646464646464',4,'t');
CREATE TABLE uploads (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  dialect TEXT NOT NULL,
  target BLOB NOT NULL,
  created REAL NOT NULL,
  expires REAL NOT NULL,
  max_size INTEGER NOT NULL,
  length INTEGER,
  "offset" INTEGER NOT NULL,
  phase INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  name TEXT,
  fingerprint TEXT NOT NULL,
  concat TEXT NOT NULL,
  parts TEXT NOT NULL,
  parent TEXT NOT NULL,
  answer BLOB
);
INSERT INTO "uploads" VALUES('upload_1','t','rufh',X'7B7D',1790000000.0,2790000000.0,100,9,4,0,2,'name','fingerprint','','','',NULL);
CREATE UNIQUE INDEX uploads_by_name ON uploads (owner, name) WHERE name IS NOT NULL;
CREATE INDEX uploads_expire ON uploads (expires);
CREATE INDEX uploads_of_owner ON uploads (owner, phase);
CREATE INDEX uploads_of_parent ON uploads (parent) WHERE parent <> '';
CREATE INDEX segments_of_block ON segments (owner, digest);
CREATE INDEX blocks_by_use ON blocks (used);
CREATE INDEX blocks_by_file ON blocks (file);
COMMIT;
PRAGMA application_id = 1346721104;
PRAGMA user_version = 1;
