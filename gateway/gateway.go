// Package gateway is the service: it speaks the AWS KMS API, and the part of
// STS that clients need, over HTTP. A table of operations says what differs
// between them; one pipeline carries every request through signature,
// constraints, authorisation, key state, work and audit. Wire errors are made
// here and in kmsapi only.
//
// It trusts its configuration, the token behind hsm.Token, and Postgres only
// as far as the token's bindings and the audit chain can prove it wrong.
package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"kmsgate/gateway/identity"
	"kmsgate/gateway/reconcile"
	"kmsgate/hsm"
	"kmsgate/metadata"
)

// Config is what a Gateway is made of. It is checked once, by New.
type Config struct {
	// Regions that are served, each with its default key store. A request's
	// region is that of its verified signature.
	Regions []Region
	// Tokens by key store id: the HSM behind each store.
	Tokens map[string]hsm.Token
	Store  *metadata.Store
	Logger *slog.Logger
	// Metrics is where the gateway registers its numbers. Optional.
	Metrics prometheus.Registerer
	// Throttling holds callers to AWS's request rates. Off in dev.
	Throttling bool
	// MaxInFlight bounds the requests that are worked on at once; more are
	// refused with ThrottlingException. Optional: 512.
	MaxInFlight int
	// Timeout bounds the work on one request. Optional: 10 s.
	Timeout time.Duration
	// GenerationTimeout is Timeout for requests that have an RSA key made, which
	// takes a token long. Optional: 60 s.
	GenerationTimeout time.Duration
	// KeepRefusals is how long it is kept why requests were refused. Optional: the
	// constant of that name.
	KeepRefusals time.Duration
	// Services are the services of the site that have keys of their own.
	Services []Service
	// Quotas are how much an account can have. Optional: AWS's.
	Quotas Quotas
	// Webhook is where events of keys are posted; the store must queue them. Optional.
	Webhook *reconcile.Webhook
	// Clock tells the time. Optional: time.Now.
	Clock func() time.Time
	// Associations are the roles of containers that ask for credentials without naming
	// one. Optional.
	Associations []Association
	// IssuerRoots are the authorities that the certificates of OIDC issuers may be of.
	// Optional: the system's.
	IssuerRoots *x509.CertPool
	// LoopbackIssuers lets OIDC issuers on this machine do without TLS. For tests and
	// trials.
	LoopbackIssuers bool
}

// Region is a region label and the key store that its keys live in.
type Region struct {
	Name  string
	Store string
}

// Gateway serves the API. Make it with New; safe for concurrent use.
type Gateway struct {
	regions     []Region
	tokens      map[string]hsm.Token
	store       *metadata.Store
	logger      *slog.Logger
	metrics     *metrics
	throttle    *throttle // nil: no rates
	explaining  *throttle // of refusals whose reasons are kept
	noise       *noise
	signingKeys signingKeys
	keyUses     keyUses
	sessionDocs sessionPolicies
	sessionKeys *sessionKeys
	sessions    openedSessions
	routes      map[route]*operation
	readiness   readiness
	reading     chan struct{} // requests whose caller is not known yet
	inFlight    chan struct{} // requests that are worked on
	generating  *slowPlaces   // of them, those that have a key made which takes long, in places of their own
	quotas      Quotas
	bodies      atomic.Int64 // bytes of bodies beyond their first room
	services    services
	firstUses   singleflight.Group // of services' keys
	// Of a request's time, a part is kept for its record.
	workTimeout, generationTimeout, recordTimeout time.Duration
	keepRefusals                                  time.Duration
	clock                                         func() time.Time

	associations []Association
	issuers      *identity.Issuers
	reconciler   *reconcile.Reconciler
}

// New checks the configuration and makes a Gateway.
func New(c Config) (*Gateway, error) {
	if c.Store == nil || c.Logger == nil {
		return nil, errors.New("gateway: Store and Logger are required")
	}
	if len(c.Regions) == 0 {
		return nil, errors.New("gateway: Regions is empty")
	}
	for _, r := range c.Regions {
		if c.Tokens[r.Store] == nil {
			return nil, fmt.Errorf("gateway: no token for key store %q of region %q", r.Store, r.Name)
		}
	}
	timeout, inFlight := orDefault(c.Timeout, 10*time.Second), orDefault(c.MaxInFlight, 512)
	g := &Gateway{
		regions: slices.Clone(c.Regions), tokens: c.Tokens, store: c.Store, logger: c.Logger,
		metrics: newMetrics(c.Metrics), noise: newNoise(), explaining: newThrottle(), routes: routesOf(operations, refusals), quotas: c.Quotas.orAWS(),
		reading: make(chan struct{}, maxReading), inFlight: make(chan struct{}, inFlight),
		generating:  newSlowPlaces(max(1, inFlight/8)),
		workTimeout: timeout - timeout/4, recordTimeout: timeout / 4,
		generationTimeout: max(orDefault(c.GenerationTimeout, time.Minute), timeout) - timeout/4,
		keepRefusals:      orDefault(c.KeepRefusals, KeepRefusals), services: servicesOf(c.Services),
		clock: c.Clock,
	}
	g.associations = slices.Clone(c.Associations)
	g.sessionKeys = newSessionKeys(c.Store, c.Tokens)
	g.issuers = identity.NewIssuers(c.IssuerRoots, c.LoopbackIssuers)
	if c.Throttling {
		g.throttle = newThrottle()
	}
	if g.clock == nil {
		g.clock = time.Now
	}
	g.reconciler = reconcile.New(reconcile.Config{
		Store: c.Store, Tokens: c.Tokens, Logger: c.Logger, Clock: g.clock, Metrics: c.Metrics, Fit: g.fit, Webhook: c.Webhook,
	})
	return g, nil
}

// Run does the gateway's periodic work until ctx ends: it records the counts of
// refusals that were not recorded one by one, stores the last uses of access keys,
// and forgets why old requests were refused, and sessions and their keys that are
// over. It flushes once more at the end. Beside it run the jobs of package reconcile.
func (g *Gateway) Run(ctx context.Context) {
	var jobs sync.WaitGroup
	jobs.Go(func() { g.reconciler.Run(ctx) })
	defer jobs.Wait()
	tick, forget, noteUses := time.NewTicker(time.Second), time.NewTicker(forgetEvery), time.NewTicker(noteUsesEvery)
	defer tick.Stop()
	defer forget.Stop()
	defer noteUses.Stop()
	for {
		select {
		case <-forget.C:
			g.forgetRefusals(ctx, g.clock())
		case <-noteUses.C:
			g.flushKeyUses(ctx)
		case <-tick.C:
			g.flushNoise(ctx, g.clock())
			g.sweepSessions(ctx, g.clock())
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			g.flushNoise(last, g.clock().Add(time.Second))
			g.flushKeyUses(last)
			return
		}
	}
}

func (g *Gateway) flushNoise(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, g.recordTimeout)
	defer cancel()
	if err := g.noise.flush(ctx, g.store, now); err != nil {
		g.logger.Error("counts of refusals not recorded yet", "error", err)
	}
}

// maxReading bounds the requests whose signature and body are being read. A
// client that stalls holds one of these places, never one of those for work.
const maxReading = 8192

// maxClockSkew is how far the clock may be from the database's.
const maxClockSkew = 2 * time.Second

// OpenSecret opens the secret of an access key. It is the caller's to clear.
func (g *Gateway) OpenSecret(ctx context.Context, key *metadata.AccessKey) ([]byte, error) {
	tokens := make([]hsm.Token, 0, len(g.regions))
	for _, r := range g.regions {
		tokens = append(tokens, g.tokens[r.Store])
	}
	return identity.OpenSecret(ctx, tokens, key)
}

// serves tells whether a region is served here.
func (g *Gateway) serves(region string) bool {
	return slices.ContainsFunc(g.regions, func(r Region) bool { return r.Name == region })
}

// regionName is the name of a region in memory of the gateway's: what is kept under
// it, such as cached keys, keeps nothing of a request alive. For a region that is not
// served it is the first that is.
func (g *Gateway) regionName(region string) string {
	i := slices.IndexFunc(g.regions, func(r Region) bool { return r.Name == region })
	return g.regions[max(i, 0)].Name
}

// defaultStore is the key store of a region that is served.
func (g *Gateway) defaultStore(region string) string {
	i := slices.IndexFunc(g.regions, func(r Region) bool { return r.Name == region })
	return g.regions[i].Store
}

// report logs and counts the cause of an error that the caller is not told.
func (g *Gateway) report(c *call, alarm bool, err error) {
	level := slog.LevelWarn
	if alarm {
		level = slog.LevelError
		g.metrics.alarms.Inc()
	}
	g.logger.Log(c.ctx, level, "request failed inside", "request_id", c.requestID, "operation", c.event.Name, "error", err)
}

func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
