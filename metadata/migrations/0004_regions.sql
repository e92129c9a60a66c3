-- +goose Up

INSERT INTO schema_compatibility (version, oldest_serving) VALUES (4, 4);

-- Related multi-Region keys have one id, each in a Region of its own; one of them is
-- the primary. While the primary is moved there may be none.
CREATE INDEX keys_related ON keys (id) WHERE multi_region_role IS NOT NULL;
CREATE UNIQUE INDEX keys_primary ON keys (id) WHERE multi_region_role = 'PRIMARY' AND state <> 'Deleted';

-- At most one imported material waits for the key to be rotated to it.
CREATE UNIQUE INDEX materials_pending ON materials (region, key_id) WHERE pending;
