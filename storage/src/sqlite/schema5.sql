-- Who has uploaded which file. A file is stored once, however many accounts have uploaded it.
CREATE TABLE upload (
    account     TEXT    NOT NULL,
    digest      TEXT    NOT NULL,
    size_bytes  INTEGER NOT NULL CHECK (size_bytes >= 0),
    uploaded_ms INTEGER NOT NULL,
    PRIMARY KEY (account, digest)
) STRICT, WITHOUT ROWID;

-- With which token the machine of a token enrolled. Empty for tokens of people, and for machines of before.
ALTER TABLE token ADD COLUMN origin TEXT NOT NULL DEFAULT '';
CREATE INDEX token_origin ON token (origin) WHERE origin <> '';
