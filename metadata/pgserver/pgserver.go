// Package pgserver runs a private Postgres from the binaries that are installed
// on the machine: one cluster in one directory, on a Unix socket only, for
// development and tests.
//
// It is not a way to run Postgres in production, and it speaks no SQL: who wants
// to talk to the server takes its URL to package metadata.
//
// It trusts the operating system: whoever may enter the socket's directory (the
// user that Postgres runs as, and root) is the superuser of the cluster.
package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// superuser is the role that initdb makes and that URL names.
const superuser = "kmsgate"

// Config says where a cluster lies and how careful it is.
type Config struct {
	// Dir is the directory of the cluster; it is made if it is missing. Postgres
	// refuses to run as root, so a process of root runs it as the user postgres
	// (nobody where there is none), and that user needs to be able to enter Dir:
	// where it cannot (mode 0700 somewhere on the way), the cluster lies under
	// /var/lib/kmsgate and [Server.Note] says so. Must be empty with Temporary.
	Dir string

	// Temporary makes a cluster for one process, with a directory of its own among
	// the system's temporary files. Stop removes it. If the process ends without
	// Stop, the server ends with it (Linux) and the files are removed by the next
	// temporary start.
	Temporary bool

	// Durable says that what is committed must survive a crash of the machine.
	// False turns fsync, full_page_writes and synchronous_commit off, for tests.
	Durable bool

	// Settings are added to the server's settings and override them. Optional.
	Settings map[string]string
}

// validate reports the first field that is wrong, by name.
func (c Config) validate() error {
	switch {
	case c.Temporary && c.Dir != "":
		return errors.New("config: Dir must be empty with Temporary")
	case !c.Temporary && c.Dir == "":
		return errors.New("config: Dir is empty")
	}
	return nil
}

// Server is a running Postgres. Its methods are safe for concurrent use.
type Server struct {
	site
	locks     []*os.File // held until Stop; they die with the process
	notes     []string
	bin       string // directory of the binaries
	socketDir string
	temporary bool
	process   *postmaster

	stop    sync.Once
	stopErr error
}

// Start starts the cluster of cfg, making it first if there is none, and returns
// when it answers. A server that an earlier process left behind on the same
// directory is taken over, not started again; after a crash Postgres recovers by
// itself. A directory that another process is using is refused.
//
// The server runs in a session of its own, so that an interrupt from the terminal
// does not reach it. When ctx ends before the server answers, it is stopped and
// the error of ctx is returned; once Start has returned, ctx has no influence.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	s := &Server{temporary: cfg.Temporary}
	if err := s.start(ctx, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("start postgres: %w", err), s.release())
	}
	return s, nil
}

// start runs the steps of Start; the caller releases s when it fails.
func (s *Server) start(ctx context.Context, cfg Config) error {
	installed, err := findBinaries()
	if err != nil {
		return err
	}
	if err := s.occupy(cfg, installed[0]); err != nil {
		return err
	}
	found, err := installed.forCluster(s.data())
	if err != nil {
		return err
	}
	s.bin = found.dir
	if err := s.initialise(ctx, cfg.Durable); err != nil {
		return err
	}
	if s.socketDir, err = s.makeSocketDir(); err != nil {
		return err
	}
	return s.run(ctx, settings(cfg, s.socketDir))
}

// occupy finds the place of the cluster and locks it.
func (s *Server) occupy(cfg Config, b binaries) error {
	var err error
	if cfg.Temporary {
		var lock *os.File
		s.site, lock, err = makeTemporary(b)
		if err == nil {
			s.locks = append(s.locks, lock)
		}
		return err
	}
	dir, err := makeDir(cfg.Dir)
	if err != nil {
		return err
	}
	if err := s.lock(dir); err != nil {
		return err
	}
	var note string
	if s.site, note, err = settle(dir, b); err != nil {
		return err
	}
	if note != "" {
		s.notes = append(s.notes, note)
		return s.lock(s.home)
	}
	return nil
}

// lock takes the lock of dir for the life of the server.
func (s *Server) lock(dir string) error {
	lock, err := lockDir(dir)
	if err == nil {
		s.locks = append(s.locks, lock)
	}
	return err
}

// URL returns the connection URL of a database of the cluster, as the superuser.
// It does not say that the database exists; initdb makes "postgres".
func (s *Server) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + database}
	u.RawQuery = url.Values{"host": {s.socketDir}, "port": {port}}.Encode()
	return u.String()
}

// Dir returns the data directory of the cluster, an absolute path.
func (s *Server) Dir() string { return s.data() }

// Note returns what the operator should know of this start, a line each: that the
// cluster lies elsewhere than under Config.Dir, that a running server was taken
// over. Empty when there is nothing to say.
func (s *Server) Note() string { return strings.Join(s.notes, "\n") }

// Stop shuts the server down: open transactions are rolled back, connections are
// closed, and it returns when the process is gone. Further calls return what the
// first did. An error says that the server had to be stopped without a
// checkpoint; what was committed is recovered at the next start.
func (s *Server) Stop() error {
	s.stop.Do(func() {
		s.stopErr = errors.Join(s.process.stop(), s.release())
	})
	return s.stopErr
}

// release gives up the places of a server that is not running.
func (s *Server) release() error {
	var errs []error
	if s.socketDir != "" {
		errs = append(errs, os.RemoveAll(s.socketDir)) // not empty after a crash
	}
	if s.temporary && s.home != "" {
		errs = append(errs, os.RemoveAll(s.home))
	}
	for _, lock := range s.locks {
		errs = append(errs, lock.Close())
	}
	return errors.Join(errs...)
}

// logFile returns the path of the server's log.
func (s *Server) logFile() string { return filepath.Join(s.home, "postgres.log") }
