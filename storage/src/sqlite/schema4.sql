-- Lists of runs: by state, by owner, and by a part of the name. Each has what is asked of a run, so that the runs that do
-- not match are not read; the last one is read from end to end, and is a small part of the table.
CREATE INDEX run_state ON run (state, number, owner, name);
CREATE INDEX run_owner ON run (owner, number, state, name);
CREATE INDEX run_search ON run (number, name);
