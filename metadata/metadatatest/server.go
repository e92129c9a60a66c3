package metadatatest

import (
	"context"
	"errors"
	"os"
	"sync"

	"kmsgate/metadata"
	"kmsgate/metadata/pgserver"
)

// server is where the databases of the test binary are.
type server struct {
	admin    string // URL of a database from which others can be made
	template string // name of a migrated database
	stop     func() error
}

// shared is the server of the test binary, started by the first test that needs it:
// the package's only state. Guarded by its own mutex.
var shared struct {
	sync.Mutex
	server *server
	err    error // why it did not start
}

// theServer returns the shared server, starting it first if it is not there.
func theServer() (*server, error) {
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = startServer()
	}
	return shared.server, shared.err
}

// Stop ends the server, for a TestMain that looks for leaks after m.Run; no test
// may run any more. Without it, the server ends with the process.
func Stop() error {
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		return nil
	}
	defer func() { shared.server = nil }()
	return shared.server.stop()
}

func startServer() (*server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	s, err := findServer(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.makeTemplate(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func findServer(ctx context.Context) (*server, error) {
	if admin := os.Getenv("KMSGATE_TEST_POSTGRES"); admin != "" {
		return &server{admin: admin, stop: func() error { return nil }}, nil
	}
	if image := os.Getenv("KMSGATE_TEST_POSTGRES_IMAGE"); image != "" {
		return startContainer(ctx, image)
	}
	private, err := pgserver.Start(ctx, pgserver.Config{Temporary: true, Settings: map[string]string{"max_connections": "300"}})
	if err != nil {
		return nil, err
	}
	return &server{admin: private.URL("postgres"), stop: private.Stop}, nil
}

func (s *server) makeTemplate(ctx context.Context) error {
	name := randomName()
	if err := metadata.CreateDatabase(ctx, s.admin, name, ""); err != nil {
		return err
	}
	at, err := withDatabase(s.admin, name)
	if err != nil {
		return err
	}
	if err := metadata.Migrate(ctx, at); err != nil {
		return errors.Join(err, metadata.DropDatabase(ctx, s.admin, name))
	}
	s.template = name
	stop := s.stop
	s.stop = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		return errors.Join(metadata.DropDatabase(ctx, s.admin, name), stop())
	}
	return nil
}
