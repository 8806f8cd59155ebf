-- Version 1. History is insert-only; the columns state and finished_ms of a run are caches of it.
-- Texts that are compared or sorted have the collation "C", so that the order is that of their bytes.
-- JSON is kept as json where it has to come back byte for byte and is written by statements of this
-- database alone, else as text.

CREATE TABLE run (
    number       bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    id           text   COLLATE "C" NOT NULL UNIQUE CHECK (id <> ''),
    name         text   NOT NULL,
    spec         text   NOT NULL,
    source_name  text   NOT NULL,
    plan         text   NOT NULL CHECK (plan::json IS NOT NULL),
    fold_version bigint NOT NULL CHECK (fold_version >= 1),
    owner        text   COLLATE "C" NOT NULL,
    priority     bigint NOT NULL,
    created_ms   bigint NOT NULL,
    out_dir      text   NOT NULL,
    state        text   COLLATE "C" NOT NULL DEFAULT 'running'
                 CHECK (state IN ('running', 'paused', 'succeeded', 'failed', 'cancelled')),
    finished_ms  bigint,
    CHECK ((finished_ms IS NULL) = (state IN ('running', 'paused')))
);

CREATE INDEX run_unfinished ON run (number) WHERE finished_ms IS NULL;

-- The column run of the history has no foreign key: the check of each row would take longer than the
-- row. The statement that commits locks the run instead, once.
CREATE TABLE claim (
    run        bigint  NOT NULL,
    seq        bigint  NOT NULL CHECK (seq >= 1),
    time_ms    bigint  NOT NULL,
    generation bigint  NOT NULL,
    task       bigint  NOT NULL,
    attempt    bigint  NOT NULL CHECK (attempt >= 1),
    execution  bigint  NOT NULL,
    worker     bigint  NOT NULL,
    step       integer NOT NULL,
    PRIMARY KEY (run, seq)
);

-- Attempts that ended. outcome: 1 succeeded, 2 failed, 3 cancelled, 4 lost.
CREATE TABLE attempt (
    run        bigint   NOT NULL,
    seq        bigint   NOT NULL CHECK (seq >= 1),
    time_ms    bigint   NOT NULL,
    generation bigint   NOT NULL,
    task       bigint   NOT NULL,
    attempt    bigint   NOT NULL CHECK (attempt >= 1),
    execution  bigint   NOT NULL,
    worker     bigint   NOT NULL,
    started_ms bigint   NOT NULL,
    took_ms    bigint   NOT NULL,
    step       integer  NOT NULL,
    outcome    smallint NOT NULL CHECK (outcome BETWEEN 1 AND 4),
    -- {outputs, bindings, notes}. NULL when there is none of them.
    products   json     CHECK (products IS NULL OR outcome = 1),
    -- {kind, message}.
    failure    json     CHECK ((failure IS NOT NULL) = (outcome = 2)),
    PRIMARY KEY (run, seq)
);

CREATE TABLE event (
    run     bigint NOT NULL,
    seq     bigint NOT NULL CHECK (seq >= 1),
    time_ms bigint NOT NULL,
    -- The sender's, a number without sign.
    id      bigint NOT NULL,
    event   json   NOT NULL,
    PRIMARY KEY (run, seq),
    UNIQUE (run, id)
);

-- Messages that could not be decoded or folded.
CREATE TABLE rejected (
    number  bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    time_ms bigint NOT NULL,
    reason  text   NOT NULL,
    raw     bytea  NOT NULL
);

-- Each commit locks its row against the next owner.
CREATE TABLE ownership (
    shard      bigint PRIMARY KEY,
    epoch      bigint NOT NULL CHECK (epoch >= 1),
    ticket_key bytea  NOT NULL CHECK (length(ticket_key) = 32),
    address    text   NOT NULL,
    since_ms   bigint NOT NULL
);

CREATE TABLE submission (
    account text  COLLATE "C" NOT NULL,
    key     text  COLLATE "C" NOT NULL,
    request bytea NOT NULL,
    run     text  COLLATE "C" NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    PRIMARY KEY (account, key)
);

CREATE INDEX submission_run ON submission (run);

CREATE TABLE token (
    id          text   COLLATE "C" PRIMARY KEY CHECK (id <> ''),
    name        text   NOT NULL,
    role        text   NOT NULL,
    account     text   NOT NULL,
    secret_hash bytea  NOT NULL CHECK (length(secret_hash) = 32),
    created_ms  bigint NOT NULL,
    revoked_ms  bigint
);

CREATE TABLE worker (
    id            bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name          text   COLLATE "C" NOT NULL,
    account       text   COLLATE "C" NOT NULL,
    token         text   NOT NULL,
    inventory     text   NOT NULL CHECK (inventory::json IS NOT NULL),
    state         text   NOT NULL CHECK (state IN ('enabled', 'disabled', 'draining')),
    registered_ms bigint NOT NULL,
    seen_ms       bigint NOT NULL,
    UNIQUE (account, name)
);

CREATE TABLE audit (
    number  bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    time_ms bigint NOT NULL,
    account text   NOT NULL,
    token   text   NOT NULL,
    action  text   NOT NULL,
    target  text   NOT NULL,
    detail  text   NOT NULL CHECK (detail::json IS NOT NULL),
    address text   NOT NULL
);

CREATE TABLE schedule (
    id          text    COLLATE "C" PRIMARY KEY CHECK (id <> ''),
    account     text    NOT NULL,
    cron        text    NOT NULL,
    zone        text    NOT NULL,
    overlap     text    NOT NULL,
    catch_up    text    NOT NULL,
    jitter_ms   bigint  NOT NULL CHECK (jitter_ms >= 0),
    job         text    NOT NULL,
    source_name text    NOT NULL,
    out_dir     text    NOT NULL,
    paused      boolean NOT NULL,
    created_ms  bigint  NOT NULL,
    planned_ms  bigint  NOT NULL
);

-- A due time is dealt with once. The run may have been removed since.
CREATE TABLE fire (
    schedule text   COLLATE "C" NOT NULL REFERENCES schedule (id) ON DELETE CASCADE,
    due_ms   bigint NOT NULL,
    outcome  text   NOT NULL CHECK (outcome IN ('started', 'skipped', 'queued', 'replaced', 'failed')),
    run      text,
    PRIMARY KEY (schedule, due_ms)
);

CREATE INDEX fire_waiting ON fire (schedule, due_ms) WHERE outcome = 'queued';

CREATE TABLE delivery (
    number   bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    hook     text   COLLATE "C" NOT NULL,
    event_id text   COLLATE "C" NOT NULL,
    body     text   NOT NULL,
    attempts bigint NOT NULL,
    next_ms  bigint NOT NULL,
    done_ms  bigint,
    error    text   NOT NULL,
    UNIQUE (hook, event_id)
);

CREATE INDEX delivery_due ON delivery (hook, next_ms) WHERE done_ms IS NULL;
CREATE INDEX delivery_hook ON delivery (hook, number);
