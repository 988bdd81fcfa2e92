BEGIN TRANSACTION;
CREATE TABLE deliveries (
  message TEXT NOT NULL,
  url TEXT NOT NULL,
  tenant TEXT NOT NULL,
  body BLOB NOT NULL,
  created REAL NOT NULL,
  attempts INTEGER NOT NULL,
  due REAL,
  PRIMARY KEY (message, url)
);
INSERT INTO "deliveries" VALUES('evt_1','https://hooks.example.com/','t',X'',1790000000.0,1,NULL);
INSERT INTO "deliveries" VALUES('evt_2','https://hooks.example.com/','t',X'7B7D',1790000000.0,0,1790000000.0);
CREATE INDEX deliveries_due ON deliveries (due) WHERE due IS NOT NULL;
COMMIT;
PRAGMA application_id = 1346719319;
PRAGMA user_version = 1;
