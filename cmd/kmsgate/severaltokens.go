package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"kmsgate/hsm"
	"kmsgate/hsm/cluster"
	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
)

// tokens are the names of a key store's tokens.
func (r *regionConfig) tokens() []string {
	if len(r.Tokens) > 0 {
		return r.Tokens
	}
	return []string{r.Token}
}

// makeKeysBy is the command that makes the service keys of a key store.
func (r *regionConfig) makeKeysBy() string {
	if len(r.Tokens) > 0 {
		return "kmsgate hsm create-service-keys -config FILE -store " + r.Store
	}
	return "kmsgate init -config FILE -account ACCOUNT"
}

// isShared tells whether several tokens may have a store's service keys.
func (c *config) isShared(store string) bool {
	return slices.ContainsFunc(c.Regions, func(r regionConfig) bool { return r.Store == store && len(r.Tokens) > 0 })
}

// rowsIn are those of a store's service keys that the token with a serial must have: of
// several tokens each has those that the database says it has. A store's only token,
// which may have been restored from the backup of another, must have all of them.
func (c *config) rowsIn(rows []metadata.ServiceKey, store, serial string) []metadata.ServiceKey {
	several := c.isShared(store)
	var in []metadata.ServiceKey
	for _, k := range rows {
		if k.InToken() && (!several || len(k.Tokens) == 0 || slices.Contains(k.Tokens, serial)) {
			in = append(in, k)
		}
	}
	return in
}

// checkHolders refuses a key store of which a token does not have the active service
// keys, or of which no token has those that something is under.
func (i *installation) checkHolders(ctx context.Context, r regionConfig, rows []metadata.ServiceKey) error {
	held := map[string]bool{} // by kind and generation
	active := map[hsm.ServiceKeyKind]bool{}
	for _, name := range r.tokens() {
		serial := i.byToken[name].Stats().Serial
		for _, k := range i.config.rowsIn(rows, r.Store, serial) {
			held[serviceKeyName(k)] = true
		}
		for _, k := range rows {
			if k.State != metadata.ServiceKeyActive {
				continue
			}
			active[k.Kind] = true
			if len(r.Tokens) > 0 && !slices.Contains(k.Tokens, serial) {
				return fmt.Errorf("token %s (serial %s) does not have the %s; run: %s", name, serial, describeServiceKey(k), r.makeKeysBy())
			}
		}
	}
	for _, k := range rows {
		if !k.InToken() || held[serviceKeyName(k)] {
			continue
		}
		if k.Kind == hsm.SealingKey {
			n, err := i.store.CountSealed(ctx, r.Store, k.Generation)
			if err != nil {
				return err
			}
			if n == 0 {
				continue
			}
		}
		return fmt.Errorf("none of the tokens of key store %s has the %s, and something is under it: configure the token with serial %s beside them, and run: "+
			"kmsgate hsm rotate-domain-key -config FILE -store %s", r.Store, describeServiceKey(k), strings.Join(k.Tokens, " or "), r.Store)
	}
	for _, kind := range hsm.ServiceKeyKinds {
		if len(r.Tokens) > 0 && !active[kind] {
			return fmt.Errorf("key store %s has several tokens and no %s key yet; run: %s", r.Store, kind, r.makeKeysBy())
		}
	}
	return nil
}

func serviceKeyName(k metadata.ServiceKey) string { return fmt.Sprint(k.Kind, k.Generation) }

// gatherTokens makes one of the tokens of each key store.
func (i *installation) gatherTokens(ctx context.Context, metrics prometheus.Registerer) error {
	for _, r := range i.config.Regions {
		if len(r.Tokens) == 0 {
			i.byStore[r.Store] = i.byToken[r.Token]
			continue
		}
		s := &severalTokens{store: i.store}
		resident := r.Residency == hsm.Resident
		var members []cluster.Member
		for _, name := range r.Tokens {
			engine := i.byToken[name]
			s.engines = append(s.engines, engine)
			members = append(members, cluster.Member{Name: name, Serial: engine.Stats().Serial, Token: engine})
		}
		var err error
		s.Token, err = cluster.New(cluster.Config{Members: members, Resident: func(*hsm.Key) bool { return resident }, Logger: i.logger.With("store", r.Store)})
		if err != nil {
			return err
		}
		i.byStore[r.Store] = s
		s.watch(metrics, r)
		if err := s.learn(ctx, r.Store); err != nil {
			return err
		}
	}
	return nil
}

// severalTokens are the tokens of one key store.
type severalTokens struct {
	*cluster.Token
	store   *metadata.Store
	engines []tokenEngine
	turn    atomic.Uint64
}

// watch registers since when members get no calls; registerer may be nil.
func (s *severalTokens) watch(registerer prometheus.Registerer, r regionConfig) {
	if registerer == nil {
		return
	}
	for _, name := range r.Tokens {
		registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kmsgate_store_token_out_since_seconds", Help: "Unix time since which a token of a key store gets no calls, because it did not answer; 0 while it gets some.",
			ConstLabels: prometheus.Labels{"store": r.Store, "token": name},
		}, func() float64 {
			for _, out := range s.Out() {
				if out.Name == name {
					return float64(out.Since.UnixMilli()) / 1000
				}
			}
			return 0
		}))
	}
}

// learn tells the cluster which of its members have which service keys.
func (s *severalTokens) learn(ctx context.Context, store string) error {
	rows, err := s.store.ServiceKeys(ctx, store)
	if err != nil {
		return err
	}
	var held []cluster.Held
	for _, k := range rows {
		if k.InToken() {
			held = append(held, cluster.Held{Kind: k.Kind, Generation: k.Generation, Active: k.State == metadata.ServiceKeyActive, Serials: k.Tokens})
		}
	}
	s.Token.LearnServiceKeys(store, held)
	return nil
}

// LearnServiceKeys has every token look for the service keys that it must have.
func (s *severalTokens) LearnServiceKeys(ctx context.Context, store string) error {
	errs := []error{s.learn(ctx, store)}
	for _, e := range s.engines {
		errs = append(errs, e.LearnServiceKeys(ctx, store))
	}
	return errors.Join(errs...)
}

var errSeveral = fmt.Errorf("%w: of several tokens at once", hsm.ErrUnsupported)

// CreateServiceKeys is not for several tokens: their service keys are made in a
// ceremony.
func (s *severalTokens) CreateServiceKeys(context.Context, []hsm.ServiceKey) ([]hsm.ServiceKey, error) {
	return nil, errSeveral
}

// DestroyServiceKeys destroys service keys in every token.
func (s *severalTokens) DestroyServiceKeys(ctx context.Context, rows []hsm.ServiceKey) error {
	for _, e := range s.engines {
		if err := e.DestroyServiceKeys(ctx, rows); err != nil {
			return fmt.Errorf("token with serial %s: %w", e.Stats().Serial, err)
		}
	}
	return nil
}

// RewrapAll has a token rewrap keys that has both generations, and those that live in
// a token that one.
func (s *severalTokens) RewrapAll(ctx context.Context, on hsm.Call, keys []hsm.Key, generation int32) ([]pkcs11.Batched, error) {
	return s.batch(keys, func(e tokenEngine, keys []hsm.Key) ([]pkcs11.Batched, error) {
		return e.RewrapAll(ctx, on, keys, generation)
	})
}

// ProveAll has tokens prove keys that have their generation, and those that live in a
// token that one.
func (s *severalTokens) ProveAll(ctx context.Context, on hsm.Call, keys []hsm.Key) ([]pkcs11.Batched, error) {
	return s.batch(keys, func(e tokenEngine, keys []hsm.Key) ([]pkcs11.Batched, error) { return e.ProveAll(ctx, on, keys) })
}

// batch asks one token after another for the keys that are not in those before. Keys
// are missing only if every token has said so.
func (s *severalTokens) batch(keys []hsm.Key, do func(e tokenEngine, keys []hsm.Key) ([]pkcs11.Batched, error)) ([]pkcs11.Batched, error) {
	outcomes, left := make([]pkcs11.Batched, len(keys)), make([]int, len(keys))
	for n := range left {
		left[n] = n
	}
	var failed error
	first := int(s.turn.Add(1) % uint64(len(s.engines))) //nolint:gosec // less than len
	for n := 0; n < len(s.engines) && len(left) > 0; n++ {
		var asked []hsm.Key
		for _, at := range left {
			asked = append(asked, keys[at])
		}
		some, err := do(s.engines[(first+n)%len(s.engines)], asked)
		if err != nil {
			failed = err
			continue
		}
		var missing []int
		for m, o := range some {
			outcomes[left[m]] = o
			if errors.Is(o.Err, hsm.ErrMissing) {
				missing = append(missing, left[m])
			}
		}
		left = missing
	}
	if len(left) > 0 && failed != nil {
		return nil, failed
	}
	return outcomes, nil
}

// Fingerprint is of single tokens.
func (s *severalTokens) Fingerprint(context.Context) (pkcs11.Fingerprint, error) {
	return pkcs11.Fingerprint{}, errSeveral
}

// Signer is of single tokens.
func (s *severalTokens) Signer(context.Context, []byte, crypto.PublicKey) (crypto.Signer, error) {
	return nil, errSeveral
}

// Stats has the serials of all tokens, and nothing else.
func (s *severalTokens) Stats() pkcs11.Stats {
	var serials []string
	for _, e := range s.engines {
		serials = append(serials, e.Stats().Serial)
	}
	return pkcs11.Stats{Serial: strings.Join(serials, ", ")}
}

// Close ends the self-tests of members that are out; the tokens are closed by
// themselves.
func (s *severalTokens) Close() error {
	s.Token.Close()
	return nil
}
