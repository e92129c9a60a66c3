-- +goose Up

INSERT INTO schema_compatibility (version, oldest_serving) VALUES (3, 3);

-- Due work is found by query, claimed for a while in a short transaction, done
-- without a transaction, and committed if the claim still stands.
ALTER TABLE keys
    ADD COLUMN claimed_by           uuid,        -- of the process that works on it
    ADD COLUMN claimed_until        timestamptz,
    ADD COLUMN deletion_window      integer CHECK (deletion_window BETWEEN 7 AND 30), -- days, as asked for
    ADD COLUMN rotation_period      integer CHECK (rotation_period BETWEEN 90 AND 2560), -- days; NULL: not rotated by itself
    ADD COLUMN next_rotation_at     timestamptz, -- NULL: not rotated by itself
    ADD COLUMN on_demand_rotations  integer NOT NULL DEFAULT 0 CHECK (on_demand_rotations >= 0),
    ADD COLUMN on_demand_started_at timestamptz, -- NULL: none is asked for
    ADD CHECK ((claimed_by IS NULL) = (claimed_until IS NULL)),
    ADD CHECK ((rotation_period IS NULL) = (next_rotation_at IS NULL));
UPDATE keys k SET rotation_period = 365, next_rotation_at = created_at + interval '365 days' -- as keys of services are made from now on
WHERE service <> '' AND origin = 'AWS_KMS'
  AND EXISTS (SELECT FROM materials m WHERE m.region = k.region AND m.key_id = k.id AND m.current AND m.residency = 'wrapped');
CREATE INDEX keys_due_deletion ON keys (deletion_at) WHERE state = 'PendingDeletion';
CREATE INDEX keys_being_deleted ON keys (region, id) WHERE state = 'Deleted' AND claimed_until IS NOT NULL;
CREATE INDEX keys_due_rotation ON keys (next_rotation_at) WHERE next_rotation_at IS NOT NULL;
CREATE INDEX keys_on_demand ON keys (on_demand_started_at) WHERE on_demand_started_at IS NOT NULL;

-- state of a material: current encrypts; the others that are associated decrypt; a
-- pending one does neither until the key is rotated to it. A material whose bytes
-- are gone (residency absent) makes its key PendingImport unless it is pending.
ALTER TABLE materials
    ADD COLUMN pending       boolean NOT NULL DEFAULT false,
    ADD COLUMN rotated_at    timestamptz, -- when it became current by a rotation; NULL for the first
    ADD COLUMN rotation_type text CHECK (rotation_type IN ('AUTOMATIC', 'ON_DEMAND')),
    ADD COLUMN expires_at    timestamptz, -- imported material that expires
    ADD COLUMN description   text NOT NULL DEFAULT '' CHECK (char_length(description) <= 256),
    ADD CHECK ((rotated_at IS NULL) = (rotation_type IS NULL)),
    ADD CHECK (NOT (pending AND current));
CREATE INDEX materials_expiring ON materials (expires_at) WHERE expires_at IS NOT NULL AND residency <> 'absent';

-- Wrapping key pairs of GetParametersForImport, in the token's wrapped form.
CREATE TABLE import_parameters (
    id          uuid PRIMARY KEY,
    account     account_id NOT NULL,
    region      text COLLATE "C" NOT NULL,
    key_id      text COLLATE "C" NOT NULL,
    algorithm   text NOT NULL,       -- wrapping algorithm
    material_id sha256 NOT NULL,     -- of the wrapping key pair, which is an hsm.Key
    spec        text NOT NULL,       -- wrapping key spec
    residency   text NOT NULL,
    generation  integer NOT NULL,
    blob        bytea NOT NULL,
    public_key  bytea NOT NULL,
    binding     bytea NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    FOREIGN KEY (account, region, key_id) REFERENCES keys (account, region, id)
);
CREATE INDEX import_parameters_by_time ON import_parameters (expires_at);

-- Events for the site's webhook. Those of a key are posted one after the other, in
-- the order of their numbers: a change that queues one holds its key's row.
CREATE TABLE event_outbox (
    number     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         uuid NOT NULL UNIQUE,
    account    account_id NOT NULL,
    region     text COLLATE "C" NOT NULL,
    key_id     text COLLATE "C" NOT NULL,
    at         timestamptz NOT NULL,
    document   bytea NOT NULL,     -- EventBridge's JSON
    attempts   integer NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL, -- of the next attempt; while one is made, the end of the claim
    claimed_by uuid                -- of the process that made the last attempt
);
CREATE INDEX event_outbox_due ON event_outbox (due_at, number);
CREATE INDEX event_outbox_by_key ON event_outbox (region, key_id, number);

-- How many keys of customers an account has in a region, those that were deleted
-- apart: the sum of the parts. Whoever makes a key raises a part that nobody else
-- holds, or adds one, so that none waits for another.
CREATE TABLE key_counts (
    account account_id NOT NULL REFERENCES accounts (id),
    region  text COLLATE "C" NOT NULL,
    part    uuid NOT NULL,
    keys    bigint NOT NULL,
    PRIMARY KEY (account, region, part)
);
INSERT INTO key_counts (account, region, part, keys)
SELECT account, region, gen_random_uuid(), count(*)
FROM keys
WHERE service = '' AND state <> 'Deleted'
GROUP BY account, region;
