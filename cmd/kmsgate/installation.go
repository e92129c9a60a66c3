package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kmsgate/gateway"
	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
	"kmsgate/hsm/worker"
	"kmsgate/metadata"
)

// An installation is what a configuration names, opened: the database, the
// engines, and which engine serves which key store.
type installation struct {
	config  *config
	logger  *slog.Logger
	store   *metadata.Store
	modules map[string]*pkcs11.Module // by path
	workers map[string]*worker.Worker // by the module's path
	engines []tokenEngine
	// byStore has the engine of each key store, byToken that of each token's name.
	byStore, byToken map[string]tokenEngine
}

// tokenEngine is a token in service, here or in a process of its module's own.
type tokenEngine interface {
	hsm.Token
	CreateServiceKeys(ctx context.Context, rows []hsm.ServiceKey) ([]hsm.ServiceKey, error)
	DestroyServiceKeys(ctx context.Context, rows []hsm.ServiceKey) error
	LearnServiceKeys(ctx context.Context, store string) error
	RewrapAll(ctx context.Context, on hsm.Call, keys []hsm.Key, generation int32) ([]pkcs11.Batched, error)
	ProveAll(ctx context.Context, on hsm.Call, keys []hsm.Key) ([]pkcs11.Batched, error)
	Fingerprint(ctx context.Context) (pkcs11.Fingerprint, error)
	Signer(ctx context.Context, id []byte, public crypto.PublicKey) (crypto.Signer, error)
	Stats() pkcs11.Stats
	Close() error
}

// openInstallation opens the database and then the tokens: a token's PIN is
// tried only where a refusal can be remembered.
func openInstallation(ctx context.Context, c *config, logger *slog.Logger, metrics prometheus.Registerer) (*installation, error) {
	i, err := openDatabase(ctx, c, logger, metrics)
	if err != nil {
		return nil, err
	}
	if err := i.openTokens(ctx, metrics); err != nil {
		return nil, errors.Join(err, i.close(ctx))
	}
	return i, nil
}

// openDatabase opens an installation without its tokens.
func openDatabase(ctx context.Context, c *config, logger *slog.Logger, metrics prometheus.Registerer) (*installation, error) {
	store, err := metadata.Open(ctx, metadata.Config{
		URL: c.Database.URL, Instance: c.Instance, AllowUnsafeDurability: c.Database.AllowUnsafeDurability,
		MaxConns: c.Database.MaxConnections, QueueEvents: c.Events.URL != "", Logger: logger, Metrics: metrics,
	})
	if err != nil {
		return nil, err
	}
	return &installation{
		config: c, logger: logger, store: store, modules: map[string]*pkcs11.Module{}, workers: map[string]*worker.Worker{},
		byStore: map[string]tokenEngine{}, byToken: map[string]tokenEngine{},
	}, nil
}

// module is the library of a configured module, one for all of its tokens.
func (i *installation) module(c moduleConfig) *pkcs11.Module {
	m, ok := i.modules[c.Path]
	if !ok {
		m = pkcs11.NewModule(c.Path, c.InitArguments)
		i.modules[c.Path] = m
	}
	return m
}

func (i *installation) openTokens(ctx context.Context, metrics prometheus.Registerer) error {
	for _, m := range i.config.Modules {
		if err := m.setEnvironment(); err != nil {
			return err
		}
		for _, t := range m.Tokens {
			if err := i.openToken(ctx, m, t, metrics); err != nil {
				return fmt.Errorf("token %s: %w%s", t.Name, err, advice(err))
			}
		}
	}
	return i.gatherTokens(ctx, metrics)
}

func (i *installation) openToken(ctx context.Context, m moduleConfig, t tokenConfig, metrics prometheus.Registerer) error {
	engineConfig := engineConfigOf(m, t)
	engineConfig.Marks, engineConfig.Logger = i.store, i.logger
	engineConfig.Resident, engineConfig.GenerateTimeout = i.config.residentStores(t.Name), i.config.generationTimeout()
	var serial string // once it is open
	engineConfig.FindServiceKeys = func(ctx context.Context, store string) ([]hsm.ServiceKey, error) {
		return i.findServiceKeys(ctx, store, serial)
	}
	observed := newTokenMetrics(metrics, t.Name)
	engineConfig.Observe = observed.observe
	engine, err := i.open(ctx, m, engineConfig, metrics)
	if err != nil {
		return err
	}
	observed.watch(engine)
	i.engines, i.byToken[t.Name] = append(i.engines, engine), engine
	serial = engine.Stats().Serial
	for _, s := range i.config.storesOf(t.Name) {
		keys, err := i.findServiceKeys(ctx, s, serial)
		if err == nil && len(keys) > 0 {
			err = engine.LearnServiceKeys(ctx, s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// findServiceKeys are the service keys of a store that the token with a serial must
// have, and those that may stay in service.
func (i *installation) findServiceKeys(ctx context.Context, store, serial string) ([]hsm.ServiceKey, error) {
	rows, err := i.store.ServiceKeys(ctx, store)
	if err != nil {
		return nil, err
	}
	var keys []hsm.ServiceKey
	for _, k := range i.config.rowsIn(rows, store, serial) {
		keys = append(keys, k.ServiceKey)
	}
	for _, k := range rows {
		if k.Spare = k.Unused; k.Spare {
			keys = append(keys, k.ServiceKey)
		}
	}
	return keys, nil
}

// lookEvery is how often an instance looks for new generations of service keys, and
// for those that are being destroyed.
const lookEvery = time.Second

// watchServiceKeys looks for the stores' service keys until ctx ends, so that new keys
// are soon made under the newest generation, and none is used any more that is to be
// destroyed.
func (i *installation) watchServiceKeys(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	failing := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for store, engine := range i.byStore {
			err := engine.LearnServiceKeys(ctx, store)
			if err != nil && !failing[store] && ctx.Err() == nil { // once, not every time
				i.logger.Warn("service keys are not looked for", "store", store, "error", err)
			}
			failing[store] = err != nil
		}
	}
}

func engineConfigOf(m moduleConfig, t tokenConfig) pkcs11.Config {
	return pkcs11.Config{
		Module: m.Path, InitArguments: m.InitArguments, Label: t.Label, Serial: t.Serial, PIN: pkcs11.PINFile(t.PINFile),
		MaxSessions: t.MaxSessions, MaxHandles: t.CachedKeys, CallTimeout: t.CallTimeout,
		Strict: t.Strict, IV: ivModes[t.IV], WrapMechanisms: t.WrapMechanisms, ReturnCodes: m.ReturnCodes,
	}
}

// advice says what to do about a token that does not come up.
func advice(err error) string {
	if errors.Is(err, hsm.ErrPIN) {
		return "; check the PIN file, then run: kmsgate hsm login -config FILE"
	}
	return ""
}

// storesOf are the key stores that a token serves.
func (c *config) storesOf(token string) []string {
	var stores []string
	for _, r := range c.Regions {
		if slices.Contains(r.tokens(), token) {
			stores = append(stores, r.Store)
		}
	}
	return stores
}

// residentStores are those of a token's key stores whose new keys are to be
// objects in the token.
func (c *config) residentStores(token string) []string {
	var stores []string
	for _, r := range c.Regions {
		if slices.Contains(r.tokens(), token) && r.Residency == hsm.Resident {
			stores = append(stores, r.Store)
		}
	}
	return stores
}

// checkInitialised refuses key stores that kmsgate init has not seen.
func (i *installation) checkInitialised(ctx context.Context) error {
	for _, r := range i.config.Regions {
		keys, err := i.store.ServiceKeys(ctx, r.Store)
		if err != nil {
			return err
		}
		active := map[hsm.ServiceKeyKind]bool{}
		for _, k := range keys {
			active[k.Kind] = active[k.Kind] || k.State == metadata.ServiceKeyActive
		}
		for _, kind := range hsm.ServiceKeyKinds {
			if !active[kind] {
				return fmt.Errorf("key store %s has no %s key yet; run: %s", r.Store, kind, r.makeKeysBy())
			}
		}
		if err := i.checkHolders(ctx, r, keys); err != nil {
			return err
		}
	}
	return nil
}

// newGateway makes the gateway of the installation.
func (i *installation) newGateway(metrics prometheus.Registerer) (*gateway.Gateway, error) {
	tokens := map[string]hsm.Token{}
	for store, engine := range i.byStore {
		tokens[store] = engine
	}
	regions := make([]gateway.Region, 0, len(i.config.Regions))
	for _, r := range i.config.Regions {
		regions = append(regions, gateway.Region{Name: r.Name, Store: r.Store})
	}
	roots, err := i.issuerRoots()
	if err != nil {
		return nil, err
	}
	webhook, err := i.webhook()
	if err != nil {
		return nil, err
	}
	return gateway.New(gateway.Config{
		Regions: regions, Tokens: tokens, Store: i.store, Logger: i.logger, Metrics: metrics,
		Throttling: *i.config.Throttling, MaxInFlight: i.config.MaxInFlight, Timeout: i.config.RequestTimeout,
		GenerationTimeout: i.config.generationTimeout(), KeepRefusals: i.config.keepRefusals(), Services: i.services(),
		Associations: i.associations(), IssuerRoots: roots, LoopbackIssuers: i.config.OIDC.Loopback,
		Quotas: i.config.Quotas.quotas(), Webhook: webhook,
	})
}

// closeTimeout bounds the closing of an installation.
const closeTimeout = 20 * time.Second

// close records what is left to record, and lets go of tokens and database.
func (i *installation) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	errs := []error{i.store.Close(ctx)}
	for _, s := range i.byStore {
		if several, ok := s.(*severalTokens); ok {
			_ = several.Close()
		}
	}
	for _, e := range i.engines {
		errs = append(errs, e.Close())
	}
	return errors.Join(errs...)
}
