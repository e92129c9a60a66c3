-- +goose Up

INSERT INTO schema_compatibility (version, oldest_serving) VALUES (4, 4);

-- Related multi-Region keys have one id, each in a Region of its own; one of them is
-- the primary.
CREATE INDEX keys_related ON keys (id) WHERE multi_region_role IS NOT NULL;
CREATE UNIQUE INDEX keys_primary ON keys (id) WHERE multi_region_role = 'PRIMARY' AND state <> 'Deleted';

-- At most one imported material waits for the key to be rotated to it.
CREATE UNIQUE INDEX materials_pending ON materials (region, key_id) WHERE pending;

-- The rotation of related keys is the primary key's.
ALTER TABLE keys ADD CHECK (multi_region_role IS DISTINCT FROM 'REPLICA'
    OR rotation_period IS NULL AND next_rotation_at IS NULL AND on_demand_rotations = 0 AND on_demand_started_at IS NULL);

-- Keys that wait for a moment until the primary key is moved.
CREATE INDEX keys_updating ON keys (region, id) WHERE state = 'Updating';

-- Replicas whose materials are still to come.
CREATE INDEX keys_creating ON keys (region, id) WHERE state = 'Creating';
