-- Version 1. History is insert-only; the columns state and finished_ms of a run are caches of it.

CREATE TABLE run (
    number       INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE CHECK (id <> ''),
    name         TEXT    NOT NULL,
    spec         TEXT    NOT NULL,
    source_name  TEXT    NOT NULL,
    plan         TEXT    NOT NULL CHECK (json_valid(plan)),
    fold_version INTEGER NOT NULL CHECK (fold_version >= 1),
    owner        TEXT    NOT NULL,
    priority     INTEGER NOT NULL,
    created_ms   INTEGER NOT NULL,
    out_dir      TEXT    NOT NULL,
    state        TEXT    NOT NULL DEFAULT 'running'
                 CHECK (state IN ('running', 'paused', 'succeeded', 'failed', 'cancelled')),
    finished_ms  INTEGER,
    CHECK ((finished_ms IS NULL) = (state IN ('running', 'paused')))
) STRICT;

CREATE INDEX run_unfinished ON run (number) WHERE finished_ms IS NULL;

CREATE TABLE claim (
    run        INTEGER NOT NULL REFERENCES run (number),
    seq        INTEGER NOT NULL CHECK (seq >= 1),
    time_ms    INTEGER NOT NULL,
    step       INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    task       INTEGER NOT NULL,
    attempt    INTEGER NOT NULL CHECK (attempt >= 1),
    execution  INTEGER NOT NULL,
    worker     INTEGER NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

-- Attempts that ended. outcome: 1 succeeded, 2 failed, 3 cancelled, 4 lost.
CREATE TABLE attempt (
    run        INTEGER NOT NULL REFERENCES run (number),
    seq        INTEGER NOT NULL CHECK (seq >= 1),
    time_ms    INTEGER NOT NULL,
    step       INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    task       INTEGER NOT NULL,
    attempt    INTEGER NOT NULL CHECK (attempt >= 1),
    execution  INTEGER NOT NULL,
    worker     INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    took_ms    INTEGER NOT NULL,
    outcome    INTEGER NOT NULL CHECK (outcome BETWEEN 1 AND 4),
    -- JSON: {outputs, bindings, notes}. NULL when there is none of them.
    products   TEXT    CHECK (products IS NULL OR outcome = 1),
    -- JSON: {kind, message}.
    failure    TEXT    CHECK ((failure IS NOT NULL) = (outcome = 2)),
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    run     INTEGER NOT NULL REFERENCES run (number),
    seq     INTEGER NOT NULL CHECK (seq >= 1),
    time_ms INTEGER NOT NULL,
    -- The sender's, a number without sign.
    id      INTEGER NOT NULL,
    event   TEXT    NOT NULL CHECK (json_valid(event)),
    PRIMARY KEY (run, seq),
    UNIQUE (run, id)
) STRICT, WITHOUT ROWID;

-- Messages that could not be decoded or folded.
CREATE TABLE rejected (
    number  INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    reason  TEXT    NOT NULL,
    raw     BLOB    NOT NULL
) STRICT;
