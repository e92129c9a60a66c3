-- +goose Up

INSERT INTO schema_compatibility (version, oldest_serving) VALUES (5, 5);
