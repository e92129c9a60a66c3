package metadatatest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/moby/moby/api/types/container"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// containerEnv is how testcontainers has to be set up where no registry can be
// reached (its reaper is an image of its own) and the engine is this machine's.
var containerEnv = map[string]string{
	"TESTCONTAINERS_RYUK_DISABLED": "true",
	"TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1",
}

// containerScript runs Postgres in any image that has its binaries and its user.
// Nothing outside removes the container of a test binary that was killed, so it
// ends by itself when nobody has been connected for five minutes.
const containerScript = `
set -e
PATH="$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)"
initdb -D /cluster/data -U kmsgate -A trust -E UTF8 --locale=C --no-sync >/dev/null
echo 'host all all all trust' >>/cluster/data/pg_hba.conf
postgres -D /cluster/data -c listen_addresses='*' -c unix_socket_directories=/cluster -c max_connections=300 \
	-c fsync=off -c full_page_writes=off -c synchronous_commit=off &
idle=0
while kill -0 $! && [ $idle -lt 30 ]; do
	sleep 10
	idle=$((idle + 1))
	clients=$(psql -h /cluster -U kmsgate -At -d postgres -c \
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
	if [ "$clients" != 0 ]; then idle=0; fi
done
`

// startContainer runs the image, its cluster in memory.
func startContainer(ctx context.Context, image string) (*server, error) {
	for name, value := range containerEnv {
		if _, set := os.LookupEnv(name); !set {
			if err := os.Setenv(name, value); err != nil {
				return nil, err
			}
		}
	}
	c, err := testcontainers.Run(ctx, image,
		testcontainers.WithEntrypoint("sh", "-c", containerScript),
		testcontainers.WithExposedPorts("5432/tcp"),
		testcontainers.WithConfigModifier(func(c *container.Config) { c.User = "postgres" }),
		testcontainers.WithHostConfigModifier(func(h *container.HostConfig) {
			h.AutoRemove = true
			h.Tmpfs = map[string]string{"/cluster": "rw,mode=1777"}
		}),
		testcontainers.WithWaitStrategy(wait.ForLog("database system is ready to accept connections")),
	)
	stop := func() error { return testcontainers.TerminateContainer(c, testcontainers.StopTimeout(0)) }
	if err != nil {
		return nil, fmt.Errorf("container of %s: %w", image, errors.Join(err, stop()))
	}
	host, err := c.Host(ctx)
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	port, err := c.MappedPort(ctx, "5432/tcp")
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return &server{admin: "postgres://kmsgate@" + net.JoinHostPort(host, port.Port()) + "/postgres?sslmode=disable", stop: stop}, nil
}
