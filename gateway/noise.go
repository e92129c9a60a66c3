package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

const (
	// noiseRate is how many unauthenticated requests a second are recorded one
	// by one. More are counted.
	noiseRate = 50
	// maxNoiseKinds bounds the kinds of refusals that are told apart in a
	// second; what is beyond counts as one kind.
	maxNoiseKinds = 1000
)

// noise counts refusals that are not recorded one by one: those for load, and
// unauthenticated requests over their rate. Safe for concurrent use.
type noise struct {
	limiter *rate.Limiter
	mu      sync.Mutex
	counts  map[noiseKind]int64 // guarded by mu

	pending []metadata.Record // of the goroutine that flushes
}

// noiseKind is what refusals are counted by.
type noiseKind struct {
	second    int64              // Unix
	identity  audit.UserIdentity // of the caller, its session apart
	account   string
	sourceIP  string
	source    string
	operation string
	region    string
	code      kmsapi.Code
}

func newNoise() *noise {
	return &noise{limiter: rate.NewLimiter(noiseRate, noiseRate), counts: map[noiseKind]int64{}}
}

// allow tells whether an unauthenticated request is recorded by itself.
func (n *noise) allow(now time.Time) bool { return n.limiter.AllowN(now, 1) }

func (n *noise) count(c *call, outcome *kmsapi.Error) {
	k := noiseKind{
		second: c.now.Unix(), identity: c.identity, account: c.caller.Account,
		sourceIP: c.event.SourceIP, source: c.event.Source, operation: c.event.Name, region: c.event.Region,
	}
	k.identity.Session = nil
	if outcome != nil {
		k.code = outcome.Code
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := n.counts[k]; !known && len(n.counts) >= maxNoiseKinds {
		// By the minute, so that even these stay few while nothing can be recorded.
		k = noiseKind{second: k.second - k.second%60, code: k.code, sourceIP: "0.0.0.0", source: serviceKMS.eventSource(), operation: "Other"}
	}
	n.counts[k]++
}

// flushRecords is how many counts are recorded at once.
const flushRecords = 500

// flush records the counts of the seconds that are over. What cannot be recorded
// now is sent again the next time, as it is: a record that got into the log
// without our hearing of it is known by its event id. One goroutine at a time.
func (n *noise) flush(ctx context.Context, store *metadata.Store, now time.Time) error {
	if err := n.send(ctx, store); err != nil {
		return err
	}
	for k, count := range n.take(now) {
		n.pending = append(n.pending, metadata.Record{Event: k.event(count).AppendJSON(nil)})
	}
	return n.send(ctx, store)
}

// send records what is pending.
func (n *noise) send(ctx context.Context, store *metadata.Store) error {
	for len(n.pending) > 0 {
		some := n.pending[:min(len(n.pending), flushRecords)]
		if err := store.Record(ctx, nil, some...); err != nil {
			return err
		}
		n.pending = n.pending[len(some):]
	}
	return nil
}

// event is the record of so many refusals of a kind.
func (k noiseKind) event(count int64) *audit.Event {
	identity := k.identity
	if identity.Type == "" {
		identity.Type = audit.Unknown
	}
	event := (&audit.Refusals{
		Identity: identity, Second: time.Unix(k.second, 0), Source: k.source, Operation: k.operation,
		Region: k.region, SourceIP: k.sourceIP, ErrorCode: string(k.code), Count: count,
		EventID: uuid.NewString(), RecipientAccount: k.account,
	}).Event()
	return &event
}

// take removes the counts of the seconds before now's.
func (n *noise) take(now time.Time) map[noiseKind]int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	taken := map[noiseKind]int64{}
	for k, count := range n.counts {
		if k.second < now.Unix() {
			taken[k] = count
			delete(n.counts, k)
		}
	}
	return taken
}
