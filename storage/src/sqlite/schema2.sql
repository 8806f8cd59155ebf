-- Version 2: who owns, submissions that happen once, people and machines, what happens by itself.

CREATE TABLE ownership (
    shard      INTEGER PRIMARY KEY,
    epoch      INTEGER NOT NULL CHECK (epoch >= 1),
    ticket_key BLOB    NOT NULL CHECK (length(ticket_key) = 32),
    address    TEXT    NOT NULL,
    since_ms   INTEGER NOT NULL
) STRICT;

CREATE TABLE submission (
    account TEXT NOT NULL,
    key     TEXT NOT NULL,
    request BLOB NOT NULL,
    run     TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    PRIMARY KEY (account, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX submission_run ON submission (run);

CREATE TABLE token (
    id          TEXT    NOT NULL PRIMARY KEY CHECK (id <> ''),
    name        TEXT    NOT NULL,
    role        TEXT    NOT NULL,
    account     TEXT    NOT NULL,
    secret_hash BLOB    NOT NULL CHECK (length(secret_hash) = 32),
    created_ms  INTEGER NOT NULL,
    revoked_ms  INTEGER
) STRICT;

CREATE TABLE worker (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT    NOT NULL,
    account       TEXT    NOT NULL,
    token         TEXT    NOT NULL,
    inventory     TEXT    NOT NULL CHECK (json_valid(inventory)),
    state         TEXT    NOT NULL CHECK (state IN ('enabled', 'disabled', 'draining')),
    registered_ms INTEGER NOT NULL,
    seen_ms       INTEGER NOT NULL,
    UNIQUE (account, name)
) STRICT;

CREATE TABLE audit (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ms INTEGER NOT NULL,
    account TEXT    NOT NULL,
    token   TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    target  TEXT    NOT NULL,
    detail  TEXT    NOT NULL CHECK (json_valid(detail)),
    address TEXT    NOT NULL
) STRICT;

CREATE TABLE schedule (
    id          TEXT    NOT NULL PRIMARY KEY CHECK (id <> ''),
    account     TEXT    NOT NULL,
    cron        TEXT    NOT NULL,
    zone        TEXT    NOT NULL,
    overlap     TEXT    NOT NULL,
    catch_up    TEXT    NOT NULL,
    jitter_ms   INTEGER NOT NULL CHECK (jitter_ms >= 0),
    job         TEXT    NOT NULL,
    source_name TEXT    NOT NULL,
    out_dir     TEXT    NOT NULL,
    paused      INTEGER NOT NULL CHECK (paused IN (0, 1)),
    created_ms  INTEGER NOT NULL,
    planned_ms  INTEGER NOT NULL
) STRICT;

-- A due time is dealt with once. The run may have been removed since.
CREATE TABLE fire (
    schedule TEXT    NOT NULL REFERENCES schedule (id) ON DELETE CASCADE,
    due_ms   INTEGER NOT NULL,
    outcome  TEXT    NOT NULL CHECK (outcome IN ('started', 'skipped', 'queued', 'replaced', 'failed')),
    run      TEXT,
    PRIMARY KEY (schedule, due_ms)
) STRICT, WITHOUT ROWID;

CREATE INDEX fire_waiting ON fire (schedule, due_ms) WHERE outcome = 'queued';

CREATE TABLE delivery (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    hook     TEXT    NOT NULL,
    event_id TEXT    NOT NULL,
    body     TEXT    NOT NULL,
    attempts INTEGER NOT NULL,
    next_ms  INTEGER NOT NULL,
    done_ms  INTEGER,
    error    TEXT    NOT NULL,
    UNIQUE (hook, event_id)
) STRICT;

CREATE INDEX delivery_due ON delivery (hook, next_ms) WHERE done_ms IS NULL;
CREATE INDEX delivery_hook ON delivery (hook, number);
