package main

import (
	"context"
	"fmt"
	"runtime/debug"
)

// version is the module's version, with the revision where it is known.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v += " " + s.Value
		}
	}
	return v
}

func runVersion(_ context.Context, p *program, args []string) error {
	if err := p.parse(p.flags("version", "Prints the version."), args); err != nil {
		return err
	}
	fmt.Fprintln(p.stdout, "kmsgate", version())
	return nil
}
