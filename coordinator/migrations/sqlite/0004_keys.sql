-- Keys must be gone for good once they are deleted. SQLite leaves copies of a row where it has rebuilt a page around it, so keys lie
-- in a table of their own, small enough to be overwritten whole with each deletion. What is left of them in pages of the other table
-- goes when the file is next opened (sqlite::clean).
CREATE TABLE keys (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

INSERT INTO keys (kind, id, body) SELECT kind, id, body FROM records WHERE kind = 'backup_key';
DELETE FROM records WHERE kind = 'backup_key';
