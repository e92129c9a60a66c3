package pgserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// places are the directories where distributions install the server's binaries,
// which they keep out of PATH.
var places = []string{
	"/usr/lib/postgresql/*/bin",            // Debian, Ubuntu
	"/usr/pgsql-*/bin",                     // packages of the Postgres project for Red Hat
	"/opt/homebrew/opt/postgresql@*/bin",   // Homebrew, Apple silicon
	"/usr/local/opt/postgresql@*/bin",      // Homebrew, Intel
	"/usr/lib/postgresql[0-9][0-9]/bin",    // SUSE
	"/usr/libexec/postgresql[0-9][0-9]",    // Alpine
	"/usr/lib/postgresql-[0-9][0-9]/bin",   // Gentoo
	"/usr/lib64/postgresql-[0-9][0-9]/bin", // Gentoo
}

// errNotInstalled is what Start says on a machine without a Postgres server.
var errNotInstalled = errors.New("no Postgres server is installed: initdb and postgres are neither under " +
	"/usr/lib/postgresql/*/bin or /usr/pgsql-*/bin nor in PATH; install the package postgresql " +
	"(Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server)")

// binaries is one installed Postgres.
type binaries struct {
	dir   string // holds initdb and postgres
	major string // major version, as in PG_VERSION: "15"
}

// installations are the installed Postgres, newest first, never empty.
type installations []binaries

// findBinaries looks through the known places and PATH.
func findBinaries() (installations, error) {
	var dirs []string
	for _, pattern := range places {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("look for binaries at %s: %w", pattern, err)
		}
		dirs = append(dirs, found...)
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	slices.Sort(dirs)
	var all installations
	for _, dir := range slices.Compact(dirs) {
		if b, ok := inspect(dir); ok {
			all = append(all, b)
		}
	}
	if len(all) == 0 {
		return nil, errNotInstalled
	}
	slices.SortStableFunc(all, func(a, b binaries) int { return number(b.major) - number(a.major) })
	return all, nil
}

// versionPattern finds the major version in "initdb (PostgreSQL) 15.13 (Debian …)".
var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// inspect asks the binaries of a directory for their version; ok is false where
// they are not complete.
func inspect(dir string) (b binaries, ok bool) {
	if _, err := os.Stat(filepath.Join(dir, "postgres")); err != nil {
		return binaries{}, false
	}
	out, err := exec.Command(filepath.Join(dir, "initdb"), "--version").Output()
	if err != nil {
		return binaries{}, false
	}
	match := versionPattern.FindSubmatch(out)
	if match == nil {
		return binaries{}, false
	}
	return binaries{dir: dir, major: string(match[1])}, true
}

// number reads a version that versionPattern has matched.
func number(major string) int {
	n, err := strconv.Atoi(major)
	if err != nil {
		return 0
	}
	return n
}

// forCluster returns the binaries for a data directory: those of the version that
// made it, the newest for one that is still to be made.
func (all installations) forCluster(data string) (binaries, error) {
	content, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return all[0], nil
	}
	if err != nil {
		return binaries{}, err
	}
	major := strings.TrimSpace(string(content))
	for _, b := range all {
		if b.major == major {
			return b, nil
		}
	}
	return binaries{}, fmt.Errorf("%s was made by Postgres %s, and only Postgres %s is installed: install the package postgresql-%s",
		data, major, all[0].major, major)
}
