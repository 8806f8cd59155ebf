-- Lists of runs: by state, by owner, and by a part of the name, without reading the runs that do not match. The last one
-- is read from end to end, and is a small part of the table. An entry of an index may not be long, so that only the
-- beginning of a name is found.
ALTER TABLE run ADD COLUMN sought text COLLATE "C" GENERATED ALWAYS AS (lower(left(name, 600))) STORED;

CREATE INDEX run_state ON run (state, number);
CREATE INDEX run_owner ON run (owner, number, state);
CREATE INDEX run_search ON run (number, sought, owner, state);
