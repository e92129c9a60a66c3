// Package migrations holds the schema as numbered SQL files, applied in order by
// kmsgate migrate. Files only go forward, are never edited once released, and
// leave the release before them working; each adds a row to
// schema_compatibility.
package migrations

import "embed"

// Files are the migrations.
//
//go:embed *.sql
var Files embed.FS

// Version is the schema that this binary is written for: the number of the
// newest file.
const Version = 5
