-- Rows of a kilobyte belong into a table that is ordered by arrival, with a small index beside it: in a table ordered by its key,
-- each new row opens a page somewhere in the middle.
CREATE TABLE arrivals (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (kind, id)
) STRICT;

INSERT INTO arrivals (kind, id, body) SELECT kind, id, body FROM records;
DROP TABLE records;
ALTER TABLE arrivals RENAME TO records;
