-- Who has uploaded which file. A file is stored once, however many accounts have uploaded it.
CREATE TABLE upload (
    account     text   COLLATE "C" NOT NULL,
    digest      text   COLLATE "C" NOT NULL,
    size_bytes  bigint NOT NULL CHECK (size_bytes >= 0),
    uploaded_ms bigint NOT NULL,
    PRIMARY KEY (account, digest)
);

-- With which token the machine of a token enrolled. Empty for tokens of people, and for machines of before.
ALTER TABLE token ADD COLUMN origin text COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX token_origin ON token (origin) WHERE origin <> '';
