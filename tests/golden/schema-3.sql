PRAGMA application_id=1380994115;
PRAGMA user_version=3;
CREATE INDEX adds_of_document ON adds(doc);
CREATE INDEX changes_of_document ON changes(doc, n) WHERE doc IS NOT NULL;
CREATE INDEX documents_changed ON documents(changed);
CREATE INDEX documents_unread ON documents(n) WHERE digest IS NULL;
CREATE TABLE adds(
    n INTEGER PRIMARY KEY, doc INTEGER NOT NULL, id BLOB NOT NULL, author INTEGER NOT NULL, seq INTEGER NOT NULL,
    idx INTEGER NOT NULL, time INTEGER NOT NULL, change INTEGER NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL,
    occurrence INTEGER NOT NULL, lead TEXT NOT NULL,
    place BLOB NOT NULL, after BLOB, meta BLOB, roots BLOB, dead INTEGER NOT NULL DEFAULT 0, rank BLOB,
    folded INTEGER NOT NULL DEFAULT 0, UNIQUE(author, seq, idx));
CREATE TABLE admissions(member BLOB, author INTEGER, seq INTEGER, PRIMARY KEY(member, author, seq)) WITHOUT ROWID;
CREATE TABLE alive(doc INTEGER, author INTEGER, seq INTEGER, PRIMARY KEY(doc, author)) WITHOUT ROWID;
CREATE TABLE authors(
    n INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, key BLOB NOT NULL, cert BLOB NOT NULL, name TEXT NOT NULL,
    private INTEGER NOT NULL DEFAULT 0, seq INTEGER NOT NULL DEFAULT 0, head BLOB NOT NULL,
    admitted_by BLOB, admitted_at INTEGER, removed_by BLOB, removed_at INTEGER, successor BLOB,
    floor INTEGER NOT NULL DEFAULT 0, floor_head BLOB);
CREATE TABLE baselines(doc INTEGER PRIMARY KEY, time INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE changes(
    n INTEGER PRIMARY KEY, author INTEGER NOT NULL, seq INTEGER NOT NULL, hash BLOB NOT NULL, time INTEGER NOT NULL,
    kind INTEGER NOT NULL, doc INTEGER, body BLOB NOT NULL, signature BLOB, UNIQUE(author, seq));
CREATE TABLE deps(author INTEGER, dep INTEGER, seq INTEGER, dep_seq INTEGER, PRIMARY KEY(author, dep, seq))
    WITHOUT ROWID;
CREATE TABLE documents(
    n INTEGER PRIMARY KEY, path TEXT NOT NULL, policy TEXT NOT NULL, private INTEGER NOT NULL,
    digest BLOB, changed_at INTEGER, changed_by INTEGER, changed INTEGER NOT NULL DEFAULT 0,
    UNIQUE(path, policy, private));
CREATE TABLE files(
    path TEXT NOT NULL PRIMARY KEY, policy TEXT NOT NULL, base BLOB NOT NULL, canonical TEXT NOT NULL,
    ids BLOB NOT NULL, change INTEGER NOT NULL, stamp TEXT, missing INTEGER, intent BLOB,
    form INTEGER NOT NULL DEFAULT 0);
CREATE TABLE held(path TEXT PRIMARY KEY, reason TEXT NOT NULL, what TEXT NOT NULL, since INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE overlaps(
    doc INTEGER, one INTEGER, one_seq INTEGER, other INTEGER, other_seq INTEGER, reviewed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(doc, one, one_seq, other, other_seq)) WITHOUT ROWID;
CREATE TABLE peers(id BLOB PRIMARY KEY, addresses TEXT, seen INTEGER, vector BLOB, note TEXT) WITHOUT ROWID;
CREATE TABLE removals(
    member BLOB, author INTEGER, seq INTEGER, away INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(member, author, seq)) WITHOUT ROWID;
CREATE TABLE skipped(path TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE successions(old BLOB, new BLOB, why TEXT NOT NULL, PRIMARY KEY(old, new)) WITHOUT ROWID;
CREATE TABLE texts(doc INTEGER PRIMARY KEY, change INTEGER NOT NULL, text TEXT NOT NULL, state BLOB NOT NULL);
CREATE TABLE withheld(path TEXT, id BLOB, since INTEGER NOT NULL, PRIMARY KEY(path, id)) WITHOUT ROWID;
