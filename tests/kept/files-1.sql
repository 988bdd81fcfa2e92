BEGIN TRANSACTION;
CREATE TABLE files (
  id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  charged INTEGER NOT NULL,
  created REAL NOT NULL,
  expires REAL,
  filename TEXT NOT NULL,
  purpose TEXT NOT NULL
);
INSERT INTO "files" VALUES('file-1','t',5,4096,1790000000.0,NULL,'in.jsonl','batch');
INSERT INTO "files" VALUES('file-2','t',7,4096,1790000000.0,2790000000.0,'out.jsonl','batch_output');
CREATE INDEX files_of_tenant ON files (tenant, created, id);
CREATE INDEX files_expire ON files (expires) WHERE expires IS NOT NULL;
COMMIT;
PRAGMA application_id = 1346719302;
PRAGMA user_version = 1;
