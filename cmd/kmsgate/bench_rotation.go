package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

const benchRotationUsage = `Measures what happens when many keys are due for rotation at once. Rounds take
turns: the token alone makes and wraps new materials; clients encrypt and no key
is due; clients encrypt while all keys are due; and, without clients, what is
left of them is worked off.

The first two columns are the clients' requests a second and latency, then keys
rotated a second, then the part of the token's time (sessions times time) that
rotation took of it. The row of the token alone counts materials, and the ratio
is that of the rotations without clients to it.`

// rotationOptions are the flags of bench rotation.
type rotationOptions struct {
	keys, rounds, connections int
	duration, latency         time.Duration
	json                      bool
}

// A token behind a network, as the modes make it of SoftHSM: so many sessions, that
// are used at once.
const farSessions = 32

func runBenchRotation(ctx context.Context, p *program, args []string) error {
	set := p.flags("bench rotation [flags]", benchRotationUsage)
	var o rotationOptions
	set.IntVar(&o.keys, "keys", 10_000, "`keys` that are due at once")
	set.IntVar(&o.rounds, "rounds", 3, "`rounds`")
	set.IntVar(&o.connections, "connections", 16, "keep-alive `connections` of the load client")
	set.DurationVar(&o.duration, "duration", 5*time.Second, "`time` of each load")
	set.DurationVar(&o.latency, "latency", 0, "more `time` for each call of a token that has 32 sessions, as one behind a network; 0: SoftHSM as it is")
	set.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	if err := p.parse(set, args); err != nil {
		return err
	}
	switch {
	case o.keys < fewKeys:
		return usagef("-keys: at least %d", fewKeys)
	case o.rounds < 1:
		return usagef("-rounds: at least 1")
	case o.connections < 1 || o.connections > fewKeys:
		return usagef("-connections: 1 to %d", fewKeys)
	case o.duration <= 0 || o.duration > maxBenchDuration:
		return usagef("-duration: more than 0 and at most %s", maxBenchDuration)
	case o.latency < 0:
		return usagef("-latency: not negative")
	}
	r, err := p.benchRotation(ctx, o)
	if err != nil {
		return err
	}
	return r.print(p.stdout, o.json)
}

// rotationBench is a run of bench rotation. Its samples are by round.
type rotationBench struct {
	*bench
	keys []string // that are made due

	alone         []float64 // materials a second
	without, with []sample  // loads
	taken         []float64 // part of the token's time
	beside        []float64 // rotations a second, with clients
	idle, ratio   []float64 // rotations a second without, and to alone
}

func (p *program) benchRotation(ctx context.Context, o rotationOptions) (r *modeReport, err error) {
	fmt.Fprintln(p.stderr, "bench: setting up a token, a database and a gateway")
	sessions := 0
	if o.latency > 0 {
		sessions = farSessions
	}
	e, err := openBenchEnvironment(ctx, benchToken{sessions: sessions, far: o.latency > 0})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.close(ctx)) }()
	b := &rotationBench{bench: &bench{benchEnvironment: e, program: p, options: benchOptions{connections: o.connections, duration: o.duration}}}
	if err := b.create(ctx, o.keys); err != nil {
		return nil, err
	}
	b.keys = b.bench.keys[:o.keys]
	if o.latency > 0 {
		b.shim.Slow(o.latency, farSessions)
	}
	calls, err := callsOn(b.keys[:o.connections], encryptCall)
	if err != nil {
		return nil, err
	}
	for round := range o.rounds {
		b.progress("round %d of %d", round+1, o.rounds)
		if err := b.round(ctx, b.timed(calls)); err != nil {
			return nil, err
		}
	}
	return b.table(o), nil
}

func (b *rotationBench) table(o rotationOptions) *modeReport {
	r := newModeReport([]string{"requests/s", "p99 ms", "keys/s", "of token's time", "of token alone"},
		"%d keys due, %d connections, %d rounds of %s, %s more for each call of the token", o.keys, o.connections, o.rounds, o.duration, o.latency)
	none := []float64{0}
	rates := func(samples []sample) (rate, p99 []float64) {
		for _, s := range samples {
			rate, p99 = append(rate, s.rate), append(p99, s.p99/1e3)
		}
		return rate, p99
	}
	rate, p99 := rates(b.without)
	r.add("clients, no key due", rate, p99, none, none, none)
	rate, p99 = rates(b.with)
	r.add("clients, keys due", rate, p99, b.beside, b.taken, none)
	r.add("no clients, keys due", none, none, b.idle, none, b.ratio)
	r.add("the token alone", none, none, b.alone, none, none)
	return r
}

// round measures everything once.
func (b *rotationBench) round(ctx context.Context, l benchLoad) error {
	alone, err := b.materials(ctx)
	if err != nil {
		return err
	}
	without, err := b.measure(ctx, l)
	if err != nil {
		return err
	}
	begun, err := b.rotated()
	if err != nil {
		return err
	}
	all := begun + float64(len(b.keys))
	if err := b.makeDue(ctx); err != nil {
		return err
	}
	if err := b.whileDue(ctx, l, all); err != nil {
		return err
	}
	idle, err := b.workOff(ctx, all)
	if err != nil {
		return err
	}
	b.alone, b.without = append(b.alone, alone), append(b.without, without)
	b.idle, b.ratio = append(b.idle, idle), append(b.ratio, idle/alone)
	return nil
}

// materials is how many materials a second the engine gives, as rotation wants them.
func (b *rotationBench) materials(ctx context.Context) (perSecond float64, err error) {
	const goroutines = 32
	token, on := b.installed.engines[0], hsm.Call{Account: benchAccount, Class: hsm.Background}
	k := hsm.Key{
		Store: b.config().Regions[0].Store, Region: benchRegion, Account: benchAccount, KeyID: b.keys[0],
		Spec: keyspec.SymmetricDefault, Usage: keyspec.EncryptDecrypt, Origin: keyspec.AWSKMS,
	}
	var made atomic.Int64
	errs := make([]error, goroutines)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range goroutines {
		wg.Go(func() {
			for errs[i] == nil && time.Since(start) < b.options.duration {
				k := k
				var id []byte
				if id, errs[i] = token.Random(ctx, on, len(k.MaterialID)); errs[i] != nil {
					return
				}
				k.MaterialID = hsm.MaterialID(id)
				_, errs[i] = token.Generate(ctx, on, k)
				made.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(made.Load()) / time.Since(start).Seconds(), errors.Join(errs...)
}

// makeDue makes all keys due for rotation at once.
func (b *rotationBench) makeDue(ctx context.Context) error {
	event := adminEvent("bench", "EnableKeyRotation", benchAccount, benchRegion, time.Now(), nil)
	due := time.Now()
	return b.installed.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		for _, id := range b.keys {
			if err := tx.SetRotation(ctx, benchRegion, benchAccount, id, 365, &due); err != nil {
				return nil, err
			}
		}
		return event, nil
	})
}

// whileDue measures the load while keys are rotated until there were all.
func (b *rotationBench) whileDue(ctx context.Context, l benchLoad, all float64) error {
	var took usage
	var made float64
	engine := b.installed.engines[0]
	before := engine.Stats()
	after := before
	answer, err := b.load(ctx, l, func() (func() error, error) {
		_, err := b.awaitRotated(ctx, all-float64(len(b.keys))+1)
		from, e := b.generated()
		used, e2 := b.usage()
		before = engine.Stats()
		return func() error {
			after = engine.Stats()
			to, err := b.generated()
			now, e := b.usage()
			made, took = to-from, now.minus(used)
			return errors.Join(err, e)
		}, errors.Join(err, e, e2)
	})
	if err != nil {
		return err
	}
	if left, err := b.rotated(); err != nil || left >= all {
		return errors.Join(err, errors.New("all keys were rotated before the load had ended: use more -keys or a shorter -duration"))
	}
	b.with = append(b.with, newSample(answer, took))
	b.taken = append(b.taken, float64(after.BackgroundTime-before.BackgroundTime)/float64(after.SharedTime-before.SharedTime))
	b.beside = append(b.beside, made/answer.Elapsed.Seconds())
	return nil
}

// workOff is how many keys a second are rotated without clients until there were all.
func (b *rotationBench) workOff(ctx context.Context, all float64) (perSecond float64, err error) {
	now, err := b.rotated()
	if err != nil {
		return 0, err
	}
	from, err := b.awaitRotated(ctx, now+1) // the clients are gone
	start := time.Now()
	if err != nil {
		return 0, err
	}
	to, err := b.awaitRotated(ctx, all)
	return (to - from) / time.Since(start).Seconds(), err
}

// awaitRotated waits until so many keys were rotated, and returns how many were.
func (b *rotationBench) awaitRotated(ctx context.Context, n float64) (float64, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := b.rotated()
		if err != nil || now >= n {
			return now, err
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// rotated is how many keys were rotated since the start: it grows when a batch of them
// is done.
func (b *rotationBench) rotated() (float64, error) {
	return b.sum("kmsgate_reconcile_done_total", "job", "rotation")
}

// generated is how many keys the token has made since the start.
func (b *rotationBench) generated() (float64, error) {
	return b.sum("kmsgate_token_call_duration_seconds", "mechanism", "generate")
}

// sum adds up the counters and the counts of a name with a value of a label.
func (b *rotationBench) sum(name, label, value string) (n float64, err error) {
	families, err := b.registry.Gather()
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() == value {
					n += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
				}
			}
		}
	}
	return n, err
}
