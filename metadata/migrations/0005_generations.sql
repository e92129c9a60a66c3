-- +goose Up

INSERT INTO schema_compatibility (version, oldest_serving) VALUES (5, 5);

-- A generation that is being destroyed: nothing is under it any more, and its
-- objects may or may not be in the token.
ALTER TABLE service_keys
    DROP CONSTRAINT service_keys_state_check,
    ADD CONSTRAINT service_keys_state_check CHECK (state IN ('creating', 'active', 'retired', 'destroying', 'destroyed'));

-- What is under a generation is found by it, and counted.
CREATE INDEX materials_by_generation ON materials (region, generation, key_id, id) WHERE residency IN ('wrapped', 'resident');

-- No row comes under a generation that is being destroyed, whoever writes it. The
-- lock of a store's generations is shared by whoever adds a row, and exclusive for
-- whoever begins to destroy one: when that has it, every row is there to be seen.
-- +goose StatementBegin
CREATE FUNCTION refuse_destroyed_generation() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    key_store text;
BEGIN
    SELECT store INTO key_store FROM keys WHERE region = NEW.region AND id = NEW.key_id;
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('kmsgate generations of ' || key_store, 0));
    PERFORM FROM service_keys
    WHERE store = key_store AND kind IN ('domain', 'binding') AND generation = NEW.generation AND state IN ('destroying', 'destroyed');
    IF FOUND THEN
        RAISE EXCEPTION 'generation % of key store % is not in use any more', NEW.generation, key_store USING ERRCODE = 'KG001';
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER materials_generation BEFORE INSERT OR UPDATE OF generation ON materials
    FOR EACH ROW WHEN (NEW.residency IN ('wrapped', 'resident')) EXECUTE FUNCTION refuse_destroyed_generation();
CREATE TRIGGER import_parameters_generation BEFORE INSERT OR UPDATE OF generation ON import_parameters
    FOR EACH ROW EXECUTE FUNCTION refuse_destroyed_generation();

-- What a token was, by its own words, when it was last accepted: a start compares.
CREATE TABLE token_fingerprints (
    token_serial text PRIMARY KEY,
    document     jsonb NOT NULL,
    accepted_at  timestamptz NOT NULL
);
