package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"kmsgate/gateway"
)

const serveUsage = `Serves the KMS API by a configuration file; deployments/kmsgate.yaml documents
every key. It refuses to start on a database of another schema version, on a
token that fails its self-test or has another firmware, library or mechanisms than
were accepted (hsm probe -accept), and without TLS on anything but loopback, and
says what to do. SIGTERM and SIGINT finish what was accepted and stop.`

func runServe(ctx context.Context, p *program, args []string) error {
	set := p.flags("serve -config FILE", serveUsage)
	path := set.String("config", "", "configuration `file` (required)")
	if err := p.parse(set, args); err != nil {
		return err
	}
	c, logger, err := p.configuration(*path, (*config).checkListening)
	if err != nil {
		return err
	}
	registry := newRegistry()
	i, err := openInstallation(ctx, c, logger, registry)
	if err != nil {
		return err
	}
	err = i.checkInitialised(ctx)
	if err == nil {
		err = i.checkTokens(ctx, "serve")
	}
	if err == nil {
		err = i.serve(ctx, registry, func(addresses) error { return nil })
	}
	return errors.Join(err, i.close(ctx))
}

// configuration reads the configuration file, with checks beyond those that every
// command wants, and makes the logger it asks for.
func (p *program) configuration(path string, more ...func(*config) error) (*config, *slog.Logger, error) {
	if path == "" {
		return nil, nil, usagef("-config is missing: the configuration file; deployments/kmsgate.yaml is a sample")
	}
	c, err := readConfig(path, more...)
	if err != nil {
		return nil, nil, err
	}
	logger, err := newLogger(p.stderr, c.Log)
	return c, logger, err
}

func newLogger(w io.Writer, level string) (*slog.Logger, error) {
	var lowest slog.Level
	if err := lowest.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log is %q: use debug, info, warn or error", level)
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: lowest})), nil
}

func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// addresses are where an installation listens.
type addresses struct {
	api   string
	admin string // empty for none
}

// Limits of the HTTP server. Clients keep idle connections for up to 90 s, and
// must be the ones to close them.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	answerTimeout     = 30 * time.Second // from the end of the longest work
	idleTimeout       = 5 * time.Minute
	maxHeaderBytes    = 64 << 10
	maxConnections    = 8192             // of the API; more wait to be accepted
	drainTimeout      = 15 * time.Second // or what the making of a key pair takes

	defaultGenerationTimeout = 60 * time.Second
)

// generationTimeout bounds the longest work on a request.
func (c *config) generationTimeout() time.Duration {
	return cmp.Or(c.GenerationTimeout, defaultGenerationTimeout)
}

// serve listens and serves until ctx ends, then finishes what was accepted.
// ready is told the addresses once it listens; its error ends the serving.
func (i *installation) serve(ctx context.Context, registry *prometheus.Registry, ready func(addresses) error) error {
	saveMemory()
	g, err := i.newGateway(registry)
	if err != nil {
		return err
	}
	api, err := i.listen(ctx)
	if err != nil {
		return err
	}
	defer api.Close()
	servers := []*http.Server{i.newServer(g.Handler())}
	listeners := []net.Listener{api}
	at := addresses{api: api.Addr().String()}
	if i.config.AdminListen != "" {
		admin, err := net.Listen("tcp", i.config.AdminListen)
		if err != nil {
			return fmt.Errorf("admin_listen: %w", err)
		}
		defer admin.Close()
		servers, listeners = append(servers, i.newServer(i.adminHandler(registry))), append(listeners, admin)
		at.admin = admin.Addr().String()
	}
	i.logger.Info("serving", "address", at.api, "admin_address", at.admin, "tls", i.config.TLS.Certificate != "", "version", version())
	return i.run(ctx, g, servers, listeners, func() error { return ready(at) })
}

// gcPercent keeps Go's heap within one and a half times of what lives: much of
// it is cached keys, which the default would double for a little CPU.
const gcPercent = 50

// saveMemory sets the garbage collector, unless the environment does.
func saveMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// run serves on the listeners until ctx ends or one of them fails.
func (i *installation) run(ctx context.Context, g *gateway.Gateway, servers []*http.Server, listeners []net.Listener, ready func() error) error {
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var watch sync.WaitGroup
		watch.Go(func() { i.watchServiceKeys(background) })
		g.Run(background)
		watch.Wait()
	}()
	failed := make(chan error, len(servers))
	for n, server := range servers {
		go func() { failed <- server.Serve(listeners[n]) }()
	}
	err := ready()
	if err == nil {
		select {
		case err = <-failed:
		case <-ctx.Done():
			i.logger.Info("stopping: finishing what was accepted")
		}
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(drainTimeout, i.config.generationTimeout()))
	defer cancel()
	for _, server := range servers {
		if late := server.Shutdown(drain); late != nil {
			// What has not come to an end by now must not go on beside the closing
			// of what it works with.
			err = errors.Join(err, late, server.Close())
		}
	}
	stopBackground()
	<-done
	return err
}

func (i *installation) listen(ctx context.Context) (net.Listener, error) {
	listener, err := net.Listen("tcp", i.config.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	listener = boundListener(listener, maxConnections)
	if i.config.TLS.Certificate == "" {
		return listener, nil
	}
	certificate, err := i.certificate(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tls: %w", err), listener.Close())
	}
	return tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	}), nil
}

func (i *installation) newServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout,
		WriteTimeout: i.config.generationTimeout() + answerTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:       slog.NewLogLogger(i.logger.Handler(), slog.LevelWarn),
	}
}
