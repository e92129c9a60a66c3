package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kmsgate/metadata"
	"kmsgate/metadata/pgserver"
	"kmsgate/softhsm"
)

// benchEnvironment is a gateway to be measured: it serves in this process, on a
// SoftHSM token and a durable Postgres that are thrown away.
type benchEnvironment struct {
	dir        string
	server     *pgserver.Server
	postmaster int
	token      softhsm.Token
	shim       *softhsm.Shim // in front of the token, to make it slow; nil if there is none
	registry   *prometheus.Registry
	benchToken
	installed *installation
	signer    benchSigner
	keys      []string // ids of symmetric keys that exist
	others    []string // ids of the keys of other kinds

	stop   context.CancelFunc // ends the serving
	served chan error
	log    io.Closer
}

// benchToken is how the token is used.
type benchToken struct {
	sessions  int    // zero for the default
	far       bool   // a shim is in front of it, which can make it slow
	isolation string // of the library
}

// benchAccount and benchRegion are whose keys are used, and where.
const (
	benchAccount = "111122223333"
	benchRegion  = "us-east-1"
)

// openBenchEnvironment makes the environment and serves. The caller closes it.
func openBenchEnvironment(ctx context.Context, t benchToken) (*benchEnvironment, error) {
	e := &benchEnvironment{registry: newRegistry(), benchToken: t}
	if err := e.open(ctx); err != nil {
		return nil, errors.Join(err, e.close(ctx))
	}
	return e, nil
}

func (e *benchEnvironment) open(ctx context.Context) (err error) {
	if e.dir, err = os.MkdirTemp("", "kmsgate-bench-"); err != nil {
		return err
	}
	if e.server, err = pgserver.Start(ctx, pgserver.Config{Temporary: true, Durable: true}); err != nil {
		return err
	}
	if e.postmaster, err = postmasterOf(e.server); err != nil {
		return err
	}
	if e.token, err = softhsm.Provision(filepath.Join(e.dir, "softhsm"), devToken); err != nil {
		return err
	}
	if e.far {
		if e.shim, err = softhsm.NewShim(e.dir); err != nil {
			return err
		}
		e.token.Module = e.shim.Module
	}
	if err := metadata.CreateDatabase(ctx, e.server.URL("postgres"), devDatabase, ""); err != nil {
		return err
	}
	if err := metadata.Migrate(ctx, e.server.URL(devDatabase)); err != nil {
		return err
	}
	// The log is written as serve writes it, for it is a part of the work.
	log, err := os.Create(filepath.Join(e.dir, "gateway.log"))
	if err != nil {
		return err
	}
	e.log = log
	logger := slog.New(slog.NewJSONHandler(log, nil))
	if e.installed, err = openInstallation(ctx, e.config(), logger, e.registry); err != nil {
		return err
	}
	if err := e.installed.ensureRegions(ctx, "bench"); err != nil {
		return err
	}
	return e.serve(ctx)
}

// config is dev's, but for the directory.
func (e *benchEnvironment) config() *config {
	off := false
	return &config{
		Listen: "127.0.0.1:0", Instance: "bench", Throttling: &off, Database: databaseConfig{URL: e.server.URL(devDatabase)},
		Modules: []moduleConfig{{
			Path: e.token.Module, Environment: map[string]string{"SOFTHSM2_CONF": e.token.ConfPath}, Isolation: e.isolation,
			Tokens: []tokenConfig{{Name: devToken, Serial: e.token.Serial, PINFile: e.token.PINFile, MaxSessions: e.sessions}},
		}},
		Quotas:  quotaConfig{KeysPerAccount: 10 * metadata.MaxKeys},
		Regions: []regionConfig{{Name: benchRegion, Store: "default-" + benchRegion, Token: devToken}},
	}
}

// postmasterOf is the process id of a cluster's main process.
func postmasterOf(s *pgserver.Server) (int, error) {
	text, err := os.ReadFile(filepath.Join(s.Dir(), "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strconv.Atoi(first)
}

// serve makes the account and serves in the background.
func (e *benchEnvironment) serve(ctx context.Context) error {
	key, secret, err := e.installed.createAccount(ctx, "bench", benchAccount)
	if err != nil {
		return err
	}
	e.signer = benchSigner{Region: benchRegion, AccessKey: key.ID, Secret: secret}
	ctx, e.stop = context.WithCancel(ctx)
	e.served = make(chan error, 1)
	at := make(chan addresses, 1)
	go func() {
		e.served <- e.installed.serve(ctx, e.registry, func(a addresses) error {
			at <- a
			return nil
		})
	}()
	select {
	case a := <-at:
		e.signer.Address = a.api
		return nil
	case err := <-e.served:
		e.served <- err // for close
		return errors.Join(errors.New("the gateway does not serve"), err)
	}
}

// close stops what was started, in reverse, and removes all files.
func (e *benchEnvironment) close(ctx context.Context) error {
	var errs []error
	if e.stop != nil {
		e.stop()
		errs = append(errs, <-e.served)
	}
	if e.installed != nil {
		errs = append(errs, e.installed.close(ctx))
	}
	clear(e.signer.Secret)
	if e.log != nil {
		errs = append(errs, e.log.Close())
	}
	if e.shim != nil {
		errs = append(errs, e.shim.Close())
	}
	if e.server != nil {
		errs = append(errs, e.server.Stop())
	}
	if e.dir != "" {
		errs = append(errs, os.RemoveAll(e.dir))
	}
	return errors.Join(errs...)
}

// api makes one request of the KMS API and reads its answer into out, if that is
// not nil.
func (e *benchEnvironment) api(ctx context.Context, operation string, in, out any) error {
	call, err := kmsCall(operation, in)
	if err != nil {
		return err
	}
	body, err := e.roundTrip(ctx, operation, call)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(body, out)
}

// roundTrip makes one request and wants a success.
func (e *benchEnvironment) roundTrip(ctx context.Context, name string, call benchCall) ([]byte, error) {
	conn, err := dialBench(ctx, e.signer.Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	status, body, err := conn.roundTrip(e.signer.request(call, time.Now()))
	if err != nil {
		return nil, err
	}
	if status != 200 {
		return nil, fmt.Errorf("%s: %d %s", name, status, body)
	}
	return body, nil
}

// kmsCall is a request of the KMS API.
func kmsCall(operation string, in any) (benchCall, error) {
	body, err := json.Marshal(in)
	return benchCall{Service: "kms", Target: "TrentService." + operation, Body: body}, err
}

// listKeys reads the ids of all symmetric keys.
func (e *benchEnvironment) listKeys(ctx context.Context) error {
	const page = 1000
	e.keys = nil
	for after := ""; ; {
		ids, err := e.installed.store.ListKeys(ctx, benchAccount, benchRegion, after, page)
		if err != nil {
			return err
		}
		e.keys = append(e.keys, slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return slices.Contains(e.others, id) })...)
		if len(ids) < page {
			return nil
		}
		after = ids[page-1]
	}
}
