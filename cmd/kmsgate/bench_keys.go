package main

import (
	"context"
)

func runBenchKeys(ctx context.Context, p *program, args []string) error { return nil }
