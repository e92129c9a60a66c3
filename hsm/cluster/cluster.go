// Package cluster makes one [hsm.Token] of several that have the same service keys:
// two HSMs, two sites.
//
// Any member opens what another has wrapped, so calls for wrapped keys go where the
// fewest are in flight, and a key comes back to the member that has it unwrapped as
// long as the load allows. A member that does not answer is out for new calls at
// once, the call is made again by another, and the member is back when its self-test
// passes. Keys that live in a token stay with it: they are looked for in all members,
// and are missing only when every one of them has said so.
//
// Which member has which generation of the service keys is told by whoever reads the
// database, see [Token.LearnServiceKeys]. What a generation is that nobody has told of
// is left to the members.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"kmsgate/hsm"
)

// Member is one token of a cluster.
type Member struct {
	Name   string // in the configuration
	Serial string // as the database's service keys name their tokens
	Token  hsm.Token
}

// maxMembers bounds a cluster; a set of members is the bits of a word.
const maxMembers = 64

// Config says of what a cluster is made.
type Config struct {
	Members []Member // 1 to 64
	// Resident tells whether a new key would be an object in the token: such keys are
	// made by one member and never again by another. Nil: none is.
	Resident func(k *hsm.Key) bool
	Logger   *slog.Logger     // nil: nothing is logged
	Clock    func() time.Time // nil means time.Now
}

// Token is a cluster in service. All methods are safe for concurrent use.
type Token struct {
	members  []*member
	resident func(k *hsm.Key) bool
	logger   *slog.Logger
	clock    func() time.Time
	seed     maphash.Seed
	turn     atomic.Uint64 // calls without a key take turns
	held     atomic.Pointer[generations]
	learning sync.Mutex // held by whoever replaces held
	places   places

	ctx     context.Context // ended by Close
	end     context.CancelFunc
	mu      sync.Mutex // guards ctx against the growth of probing
	probing sync.WaitGroup
}

var _ hsm.Token = (*Token)(nil)

// New makes a cluster. It asks nothing of its members, and does not close them.
func New(cfg Config) (*Token, error) {
	if len(cfg.Members) < 1 || len(cfg.Members) > maxMembers {
		return nil, fmt.Errorf("cluster: %d members: 1 to %d are possible", len(cfg.Members), maxMembers)
	}
	c := &Token{resident: cfg.Resident, logger: cfg.Logger, clock: cfg.Clock, seed: maphash.MakeSeed()}
	serials := map[string]bool{}
	for i, m := range cfg.Members {
		if m.Token == nil || m.Name == "" || m.Serial == "" || serials[m.Serial] {
			return nil, fmt.Errorf("cluster: member %d has no token, no name or no serial number of its own", i)
		}
		serials[m.Serial] = true
		c.members = append(c.members, &member{Member: m, bit: 1 << i})
	}
	if c.resident == nil {
		c.resident = func(*hsm.Key) bool { return false }
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	if c.clock == nil {
		c.clock = time.Now
	}
	c.held.Store(&generations{})
	c.ctx, c.end = context.WithCancel(context.Background())
	return c, nil
}

// Close ends the self-tests of members that are out. The members are the caller's.
func (c *Token) Close() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.probing.Wait()
}

// Check asks every member, and is nil while at least one serves. Those that do not
// are taken out. See [hsm.Token].
func (c *Token) Check(ctx context.Context) error {
	errs := make([]error, len(c.members))
	var asked sync.WaitGroup
	for i, m := range c.members {
		asked.Go(func() {
			if errs[i] = m.Token.Check(ctx); errs[i] != nil {
				c.noticed(ctx, m, errs[i])
				errs[i] = fmt.Errorf("token %s: %w", m.Name, errs[i])
			}
		})
	}
	asked.Wait()
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	return errors.Join(errs...)
}
