-- +goose Up

INSERT INTO schema_compatibility (version, oldest_serving) VALUES (2, 2);

-- Users, groups and roles. Names are unique in an account whatever their letter
-- case; id is the unique id that is never given again (AIDA…, AGPA…, AROA…).
CREATE TABLE principals (
    account        account_id NOT NULL REFERENCES accounts (id),
    kind           text COLLATE "C" NOT NULL CHECK (kind IN ('user', 'group', 'role')),
    name           text COLLATE "C" NOT NULL CHECK (char_length(name) BETWEEN 1 AND 128),
    path           text COLLATE "C" NOT NULL CHECK (path LIKE '/%' AND path LIKE '%/' AND char_length(path) <= 512),
    id             text COLLATE "C" NOT NULL UNIQUE,
    created_at     timestamptz NOT NULL,
    boundary       text COLLATE "C",            -- ARN of a managed policy; users and roles
    description    text NOT NULL DEFAULT '',    -- roles
    trust          text,                        -- roles: who may assume it
    trust_bindings jsonb NOT NULL DEFAULT '{}', -- ARN of each user and role in it: unique id
    max_session    integer CHECK (max_session BETWEEN 3600 AND 43200), -- roles: seconds
    revoked_before timestamptz,                 -- roles: sessions issued before are not good any more
    PRIMARY KEY (account, kind, name),
    CHECK ((kind = 'role') = (trust IS NOT NULL)),
    CHECK ((kind = 'role') = (max_session IS NOT NULL)),
    CHECK (boundary IS NULL OR kind <> 'group')
);
CREATE UNIQUE INDEX principals_by_name ON principals (account, kind, lower(name));

CREATE TABLE group_members (
    account   account_id NOT NULL,
    kind      text COLLATE "C" NOT NULL DEFAULT 'group' CHECK (kind = 'group'),
    name      text COLLATE "C" NOT NULL,
    user_kind text COLLATE "C" NOT NULL DEFAULT 'user' CHECK (user_kind = 'user'),
    user_name text COLLATE "C" NOT NULL,
    PRIMARY KEY (account, name, user_name),
    FOREIGN KEY (account, kind, name) REFERENCES principals (account, kind, name),
    FOREIGN KEY (account, user_kind, user_name) REFERENCES principals (account, kind, name)
);
CREATE INDEX group_members_by_user ON group_members (account, user_name, name);

-- Inline policies.
CREATE TABLE principal_policies (
    account     account_id NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    policy_name text COLLATE "C" NOT NULL CHECK (char_length(policy_name) BETWEEN 1 AND 128),
    document    text NOT NULL CHECK (octet_length(document) <= 32768),
    PRIMARY KEY (account, kind, name, policy_name),
    FOREIGN KEY (account, kind, name) REFERENCES principals (account, kind, name)
);

-- Managed policies have one version, v1, and never change.
CREATE TABLE managed_policies (
    account     account_id NOT NULL REFERENCES accounts (id),
    name        text COLLATE "C" NOT NULL CHECK (char_length(name) BETWEEN 1 AND 128),
    path        text COLLATE "C" NOT NULL CHECK (path LIKE '/%' AND path LIKE '%/' AND char_length(path) <= 512),
    id          text COLLATE "C" NOT NULL UNIQUE,
    description text NOT NULL DEFAULT '',
    document    text NOT NULL CHECK (octet_length(document) <= 32768),
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (account, name)
);
CREATE UNIQUE INDEX managed_policies_by_name ON managed_policies (account, lower(name));

CREATE TABLE policy_attachments (
    account     account_id NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    policy_name text COLLATE "C" NOT NULL,
    PRIMARY KEY (account, kind, name, policy_name),
    FOREIGN KEY (account, kind, name) REFERENCES principals (account, kind, name),
    FOREIGN KEY (account, policy_name) REFERENCES managed_policies (account, name)
);
CREATE INDEX policy_attachments_by_policy ON policy_attachments (account, policy_name);

CREATE TABLE principal_tags (
    account account_id NOT NULL,
    kind    text COLLATE "C" NOT NULL,
    name    text COLLATE "C" NOT NULL,
    key     text COLLATE "C" NOT NULL CHECK (char_length(key) BETWEEN 1 AND 128),
    value   text NOT NULL CHECK (char_length(value) <= 256),
    PRIMARY KEY (account, kind, name, key),
    FOREIGN KEY (account, kind, name) REFERENCES principals (account, kind, name)
);

-- OIDC providers. jwks is a JWK set that an administrator uploaded for a site
-- that must not ask the issuer; NULL: the issuer is asked.
CREATE TABLE oidc_providers (
    account     account_id NOT NULL REFERENCES accounts (id),
    url         text COLLATE "C" NOT NULL CHECK (char_length(url) BETWEEN 1 AND 255), -- without https://
    client_ids  text[] NOT NULL,
    thumbprints text[] NOT NULL,
    jwks        text,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (account, url)
);

-- An access key belongs to the account's root, or to a user.
ALTER TABLE access_keys ADD COLUMN user_name text COLLATE "C";
ALTER TABLE access_keys ADD COLUMN user_kind text COLLATE "C" NOT NULL DEFAULT 'user' CHECK (user_kind = 'user');
ALTER TABLE access_keys ADD FOREIGN KEY (account, user_kind, user_name) REFERENCES principals (account, kind, name);
CREATE INDEX access_keys_by_user ON access_keys (account, user_name, id);

CREATE TABLE access_key_uses (
    access_key text COLLATE "C" PRIMARY KEY REFERENCES access_keys (id) ON DELETE CASCADE,
    used_at    timestamptz NOT NULL,
    region     text NOT NULL,
    service    text NOT NULL
);

-- Principals that a key policy names are bound to unique ids when it is put.
ALTER TABLE policies ADD COLUMN bindings jsonb NOT NULL DEFAULT '{}';

-- The service of the site whose key it is, made at first use and managed by nobody;
-- '' for a customer's.
ALTER TABLE keys ADD COLUMN service text COLLATE "C" NOT NULL DEFAULT '';
-- How many grants it has.
ALTER TABLE keys ADD COLUMN grants integer NOT NULL DEFAULT 0 CHECK (grants >= 0);

CREATE TABLE grants (
    account                   account_id NOT NULL,           -- of the key
    region                    text COLLATE "C" NOT NULL,
    key_id                    text COLLATE "C" NOT NULL,
    id                        text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[0-9a-f]{64}$'),
    name                      text NOT NULL DEFAULT '' CHECK (char_length(name) <= 256),
    grantee                   text COLLATE "C" NOT NULL,     -- ARN of a principal, or the name of a service
    grantee_id                text COLLATE "C" NOT NULL DEFAULT '', -- unique id of a user or role
    grantee_is_service        boolean NOT NULL DEFAULT false,
    retiring                  text COLLATE "C" NOT NULL DEFAULT '', -- '' for none
    retiring_id               text COLLATE "C" NOT NULL DEFAULT '',
    retiring_is_service       boolean NOT NULL DEFAULT false,
    issuing_account           account_id NOT NULL,
    operations                text[] NOT NULL,
    encryption_context_equals json,                          -- not jsonb, which has no U+0000
    encryption_context_subset json,
    source_arn                text NOT NULL DEFAULT '',
    pairs                     text[] NOT NULL,               -- hashes of the pairs of the constraint on the encryption context
    filed                     text COLLATE "C" NOT NULL,     -- hash of key, grantee and that constraint
    effect                    sha256 NOT NULL,               -- hash of what it allows its grantee
    properties                sha256 NOT NULL,               -- hash of all that CreateGrant was given, for its idempotency by name
    created_at                timestamptz NOT NULL,
    FOREIGN KEY (account, region, key_id) REFERENCES keys (account, region, id)
);
CREATE INDEX grants_by_key ON grants (account, region, key_id, id);
CREATE INDEX grants_by_grantee ON grants (account, region, key_id, grantee, effect, id);
CREATE INDEX grants_filed ON grants (filed);
CREATE INDEX grants_by_retiring ON grants (region, retiring, retiring_id, id) WHERE retiring <> '';
CREATE UNIQUE INDEX grants_by_name ON grants (account, region, key_id, name, properties) WHERE name <> '';

-- Keys that session tokens are sealed under, sealed themselves in a token.
CREATE TABLE session_keys (
    id         integer PRIMARY KEY CHECK (id > 0),
    store      text COLLATE "C" NOT NULL REFERENCES key_stores (id),
    sealed     bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL  -- of the last session that it can have sealed
);

-- Why requests were refused, for administrators: kept for a while.
CREATE TABLE refusals (
    request_id uuid PRIMARY KEY,
    account    text COLLATE "C" NOT NULL, -- of the caller
    at         timestamptz NOT NULL,
    document   bytea NOT NULL
);
CREATE INDEX refusals_by_time ON refusals (at);
