-- +goose Up

-- What a release must know about this schema. oldest_serving is the oldest
-- schema version whose binaries may still serve on it, so that a rolling
-- upgrade can restart old ones.
CREATE TABLE schema_compatibility (
    version        bigint PRIMARY KEY,
    oldest_serving bigint NOT NULL CHECK (oldest_serving <= version)
);
INSERT INTO schema_compatibility (version, oldest_serving) VALUES (1, 1);

-- Names and ids compare by their bytes (COLLATE "C"): pages of a list go on where
-- the last one ended, whatever the operating system's collation says.
CREATE DOMAIN account_id AS text COLLATE "C" CHECK (VALUE ~ '^[0-9]{12}$');
CREATE DOMAIN sha256 AS bytea CHECK (octet_length(VALUE) = 32);

CREATE TABLE regions (
    name       text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z0-9-]{1,63}$'),
    created_at timestamptz NOT NULL
);

-- version counts the changes that a cached decision about the account depends
-- on; the last statement of a change's transaction raises it and notifies.
CREATE TABLE accounts (
    id         account_id PRIMARY KEY,
    version    bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at timestamptz NOT NULL
);

CREATE TABLE access_keys (
    id            text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[A-Z0-9]{16,32}$'),
    account       account_id NOT NULL REFERENCES accounts (id),
    principal     text NOT NULL,              -- ARN of who holds it; the account root here
    sealed_secret bytea NOT NULL,             -- under the sealing key of a store
    status        text NOT NULL CHECK (status IN ('Active', 'Inactive')),
    created_at    timestamptz NOT NULL
);
CREATE INDEX access_keys_by_account ON access_keys (account, id);

CREATE TABLE key_stores (
    id         text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9-]{0,63}$'),
    region     text COLLATE "C" NOT NULL REFERENCES regions (name),
    account    account_id REFERENCES accounts (id), -- NULL: the default store of its region
    type       text NOT NULL CHECK (type IN ('DEFAULT', 'AWS_CLOUDHSM', 'EXTERNAL_KEY_STORE')),
    state      text NOT NULL CHECK (state IN ('CONNECTED', 'CONNECTING', 'DISCONNECTED', 'DISCONNECTING', 'FAILED')),
    created_at timestamptz NOT NULL,
    CHECK ((account IS NULL) = (type = 'DEFAULT')),
    UNIQUE (region, id)
);
CREATE UNIQUE INDEX key_stores_default ON key_stores (region) WHERE account IS NULL;

-- Service keys of a store, by generation. A row is committed as 'creating'
-- before its object is made in a token, so that a crash in between leaves an
-- object that the next run finds by its CKA_ID.
CREATE TABLE service_keys (
    store       text COLLATE "C" NOT NULL REFERENCES key_stores (id),
    kind        text NOT NULL CHECK (kind IN ('domain', 'binding', 'sealing')),
    generation  integer NOT NULL CHECK (generation > 0),
    cka_id      bytea NOT NULL CHECK (octet_length(cka_id) = 16),
    check_value bytea,
    state       text NOT NULL CHECK (state IN ('creating', 'active', 'retired', 'destroyed')),
    tokens      text[] NOT NULL DEFAULT '{}', -- serials of the tokens that hold it
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (store, kind, generation),
    UNIQUE (store, cka_id),
    CHECK (state = 'creating' OR check_value IS NOT NULL)
);
CREATE UNIQUE INDEX service_keys_active ON service_keys (store, kind) WHERE state = 'active';

-- A PIN that a token refused is not tried again, not by the next process
-- either, until an operator clears the mark.
CREATE TABLE login_marks (
    token_serial text NOT NULL,
    instance     text NOT NULL,
    refused_at   timestamptz NOT NULL,
    PRIMARY KEY (token_serial, instance)
);

-- A key belongs to one account of one region. Whatever hangs on a key names the
-- account too, so that the schema itself refuses a reference across accounts.
CREATE TABLE keys (
    region            text COLLATE "C" NOT NULL,
    id                text COLLATE "C" NOT NULL CHECK (id ~ '^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32})$'),
    account           account_id NOT NULL REFERENCES accounts (id),
    store             text COLLATE "C" NOT NULL,
    spec              text NOT NULL,
    usage             text NOT NULL,
    origin            text NOT NULL CHECK (origin IN ('AWS_KMS', 'EXTERNAL', 'AWS_CLOUDHSM', 'EXTERNAL_KEY_STORE')),
    multi_region_role text CHECK (multi_region_role IN ('PRIMARY', 'REPLICA')),
    state             text NOT NULL CHECK (state IN ('Creating', 'Enabled', 'Disabled', 'PendingImport', 'PendingDeletion',
                                                     'PendingReplicaDeletion', 'Unavailable', 'Updating', 'Deleted')),
    description       text NOT NULL DEFAULT '' CHECK (char_length(description) <= 8192),
    version           bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at        timestamptz NOT NULL,
    deletion_at       timestamptz,
    PRIMARY KEY (region, id),
    UNIQUE (account, region, id),
    FOREIGN KEY (region, store) REFERENCES key_stores (region, id),
    CHECK ((multi_region_role IS NOT NULL) = (id LIKE 'mrk-%')),
    CHECK ((deletion_at IS NOT NULL) = (state = 'PendingDeletion') OR state = 'Deleted')
);

CREATE TABLE materials (
    account     account_id NOT NULL,
    region      text COLLATE "C" NOT NULL,
    key_id      text COLLATE "C" NOT NULL,
    id          sha256 NOT NULL,
    residency   text NOT NULL CHECK (residency IN ('wrapped', 'resident', 'external', 'absent')),
    current     boolean NOT NULL,
    generation  integer CHECK (generation > 0),
    blob        bytea,
    public_key  bytea,
    check_value bytea,
    binding     bytea,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (region, key_id, id),
    FOREIGN KEY (account, region, key_id) REFERENCES keys (account, region, id),
    CHECK (residency NOT IN ('wrapped', 'resident')
           OR (generation IS NOT NULL AND blob IS NOT NULL AND binding IS NOT NULL))
);
CREATE UNIQUE INDEX materials_current ON materials (region, key_id) WHERE current;

CREATE TABLE policies (
    account  account_id NOT NULL,
    region   text COLLATE "C" NOT NULL,
    key_id   text COLLATE "C" NOT NULL,
    name     text NOT NULL CHECK (name = 'default'),
    document text NOT NULL CHECK (octet_length(document) <= 131072),
    PRIMARY KEY (region, key_id, name),
    FOREIGN KEY (account, region, key_id) REFERENCES keys (account, region, id)
);

CREATE TABLE aliases (
    account    account_id NOT NULL,
    region     text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL CHECK (name LIKE 'alias/%' AND char_length(name) <= 256),
    key_id     text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (account, region, name),
    FOREIGN KEY (account, region, key_id) REFERENCES keys (account, region, id)
);
CREATE INDEX aliases_by_key ON aliases (account, region, key_id, name);

CREATE TABLE tags (
    account account_id NOT NULL,
    region  text COLLATE "C" NOT NULL,
    key_id  text COLLATE "C" NOT NULL,
    key     text COLLATE "C" NOT NULL CHECK (char_length(key) BETWEEN 1 AND 128),
    value   text NOT NULL CHECK (char_length(value) <= 256),
    PRIMARY KEY (region, key_id, key),
    FOREIGN KEY (account, region, key_id) REFERENCES keys (account, region, id)
);

-- Audit. A stream belongs to one run of one process. Its head row moves only
-- from where its writer left it.
CREATE TABLE audit_streams (
    id         uuid PRIMARY KEY,
    instance   text NOT NULL,
    previous   uuid REFERENCES audit_streams (id),
    number     bigint NOT NULL CHECK (number >= 0),  -- of the newest batch; 0 before the first
    seq        bigint NOT NULL CHECK (seq >= 0),     -- of the newest record; 0 before the first
    hash       sha256 NOT NULL,                      -- chain head
    started_at timestamptz NOT NULL,
    ended      boolean NOT NULL DEFAULT false
);

-- Batches: the exact bytes of the records, length-prefixed and compressed.
CREATE TABLE audit_batches (
    month       date NOT NULL CHECK (extract(day FROM month) = 1),
    stream      uuid NOT NULL,
    number      bigint NOT NULL CHECK (number > 0),
    first_seq   bigint NOT NULL CHECK (first_seq > 0),
    count       integer NOT NULL CHECK (count > 0),
    hash_before sha256 NOT NULL,
    hash        sha256 NOT NULL,
    records     bytea NOT NULL,
    PRIMARY KEY (month, stream, number)
) PARTITION BY RANGE (month);
ALTER TABLE audit_batches ALTER COLUMN records SET STORAGE EXTERNAL;

-- Finished records of changes, committed with the change itself, waiting for
-- their place in the chain.
CREATE TABLE audit_outbox (
    id      uuid PRIMARY KEY,
    stream  uuid NOT NULL,   -- the run that wrote it
    record  bytea NOT NULL
);
CREATE INDEX audit_outbox_by_stream ON audit_outbox (stream);

-- Uses of keys: a fold over the audit streams. audit_folds says up to which
-- batch a stream is counted; it has rows of its own, so that counting never
-- holds up an append.
CREATE TABLE audit_folds (
    stream uuid PRIMARY KEY REFERENCES audit_streams (id),
    number bigint NOT NULL CHECK (number >= 0)
);
CREATE TABLE material_uses (
    region        text NOT NULL,
    key_id        text NOT NULL,
    material_id   sha256 NOT NULL,
    encryptions   bigint NOT NULL DEFAULT 0 CHECK (encryptions >= 0),
    decryptions   bigint NOT NULL DEFAULT 0 CHECK (decryptions >= 0),
    PRIMARY KEY (region, key_id, material_id)
);
CREATE TABLE key_last_uses (
    region     text NOT NULL,
    key_id     text NOT NULL,
    operation  text NOT NULL,
    used_at    timestamptz NOT NULL,
    event_id   uuid NOT NULL,
    request_id text NOT NULL,
    PRIMARY KEY (region, key_id)
);
