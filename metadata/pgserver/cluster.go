package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// unfinished is the beginning of the names of clusters that are being made.
const unfinished = "data.new-"

// locales are what a new cluster is made with: the first that the machine has.
var locales = []string{"C.UTF-8", "C"}

// initialise makes the cluster if there is none. It is made beside its place and
// renamed when it is complete, so that what is there is always whole; what an
// earlier start left unfinished is removed.
func (s *Server) initialise(ctx context.Context, durable bool) error {
	if _, err := os.Stat(filepath.Join(s.data(), "PG_VERSION")); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := s.removeUnfinished(); err != nil {
		return err
	}
	var err error
	for _, locale := range locales {
		if err = s.initdb(ctx, locale, durable); err == nil || ctx.Err() != nil {
			break
		}
	}
	return err
}

// removeUnfinished removes clusters that were never completed. They hold nothing:
// no server has ever run on them.
func (s *Server) removeUnfinished() error {
	left, err := filepath.Glob(filepath.Join(escapeGlob(s.home), unfinished+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// escapeGlob makes a path match only itself.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// initdb makes a cluster in the given locale and puts it in its place.
func (s *Server) initdb(ctx context.Context, locale string, durable bool) error {
	dir, err := os.MkdirTemp(s.home, unfinished)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // gone after the rename; else the next start removes it
	if s.owner.switches {
		if err := os.Chown(dir, s.owner.uid, s.owner.gid); err != nil {
			return err
		}
	}
	args := []string{
		"--pgdata=" + dir, "--username=" + superuser, "--auth-local=trust", "--auth-host=reject",
		"--encoding=UTF8", "--locale=" + locale, "--data-checksums",
	}
	if !durable {
		args = append(args, "--no-sync")
	}
	cmd := s.owner.command(exec.CommandContext(ctx, filepath.Join(s.bin, "initdb"), args...), s.home)
	if out, err := runWithParent(cmd); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("initdb: %w: %s", err, lastLines(out)))
	}
	if err := os.Rename(dir, s.data()); err != nil {
		return err
	}
	return syncDir(s.home)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lastLines returns the end of a program's output, on one line.
func lastLines(out []byte) string {
	const enough = 10
	lines := strings.Split(string(bytes.TrimSpace(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-enough):], " | ")
}

// settings returns the server's settings for cfg, as name=value, sorted.
func settings(cfg Config, socketDir string) []string {
	all := map[string]string{
		"listen_addresses":        "",
		"port":                    port,
		"unix_socket_directories": `"` + strings.ReplaceAll(socketDir, `"`, `""`) + `"`,
		"unix_socket_permissions": "0700",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
		"lc_messages":             "C", // what the log says is read here
		"logging_collector":       "off",
		"log_destination":         "stderr",
	}
	if !cfg.Durable {
		all["fsync"] = "off"
		all["full_page_writes"] = "off"
		all["synchronous_commit"] = "off"
	}
	maps.Copy(all, cfg.Settings)
	sorted := make([]string, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		sorted = append(sorted, name+"="+all[name])
	}
	return sorted
}
