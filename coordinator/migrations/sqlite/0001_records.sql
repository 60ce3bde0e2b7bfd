-- One row per stored value; what is in `body` belongs to the program (JSON), not to the database.
CREATE TABLE records (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    body TEXT NOT NULL
) STRICT;
