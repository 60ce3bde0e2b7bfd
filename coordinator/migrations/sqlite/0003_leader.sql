-- One row: who may write, and how often something was written. A commit checks and raises both within its own transaction, so a
-- coordinator that was replaced stores nothing, and one that lost the answer to a commit reads here whether it was stored.
CREATE TABLE leader (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    term INTEGER NOT NULL,
    commits INTEGER NOT NULL
) STRICT;

INSERT INTO leader (one, term, commits) VALUES (1, 0, 0);
