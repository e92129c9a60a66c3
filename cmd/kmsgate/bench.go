package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"time"
)

const benchUsage = `Measures a whole gateway on this machine against the token alone, in one run:
raw PKCS#11 calls in a loop, against requests over HTTP with signatures,
authorisation and a durable audit log. Symmetric requests are held against
AES-GCM encryptions of 32 bytes, and each of the other algorithms against the
same algorithm with a key of the same spec, as many at once. It sets up a
SoftHSM token, a durable Postgres cluster and a gateway, on files that are
removed again, and loads it from a second process with requests that were signed
before. Rounds of all kinds take turns, so that whatever else the machine does
meets all of them; medians over the rounds are printed.

Afterwards it compares the cost of CreateKey at 100 keys and at -keys, and shows
the memory of the process after using 10,000 keys (or all, if there are fewer)
once each.

Columns: requests a second (median, lowest and highest round), the raw loop's
operations a second and its CPU microseconds for one, the ratio, latency as the client sees it, heap allocations a request in the
gateway, and CPU microseconds a request of the gateway, the load client and
Postgres. The second table splits those of the gateway by a CPU profile: log is
the log and the metrics, pipeline what is left of package gateway. Set TMPDIR to
measure on another disk.

kmsgate bench rotation and kmsgate bench keys measure something else; -h of each says what.`

// benchOptions are the flags of bench.
type benchOptions struct {
	duration    time.Duration
	connections int
	rounds      int
	keys        int
	only        string
	isolation   string
	json        bool
	profiles    string
	kinds       []benchKind // those that match only
}

func runBench(ctx context.Context, p *program, args []string) error {
	if len(args) == 1 && benchRoles[args[0]] != nil {
		return p.runRole(ctx, args[0])
	}
	if len(args) > 0 && benchModes[args[0]] != nil {
		return benchModes[args[0]](ctx, p, args[1:])
	}
	set := p.flags("bench [flags]", benchUsage)
	var o benchOptions
	set.DurationVar(&o.duration, "duration", 3*time.Second, "`time` of one round of one kind")
	set.IntVar(&o.connections, "connections", 16, "keep-alive `connections` of the load client")
	set.IntVar(&o.rounds, "rounds", 3, "`rounds` of each kind")
	set.IntVar(&o.keys, "keys", 20000, "`keys` to make for the second comparison; 0 leaves it out")
	set.StringVar(&o.only, "only", "", "measure only kinds whose names match this `expression`, such as '^Encrypt|RSA_2048'")
	set.StringVar(&o.isolation, "isolation", isolationNone, "`where` the token's library runs: none or process, as in the configuration")
	set.BoolVar(&o.json, "json", false, "print JSON instead of tables")
	set.StringVar(&o.profiles, "profiles", "", "`directory` to keep the CPU profiles in")
	if err := p.parse(set, args); err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	report, err := p.bench(ctx, o)
	if err != nil {
		return err
	}
	if o.json {
		encoder := json.NewEncoder(p.stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	return report.print(p.stdout)
}

// maxBenchDuration keeps the requests of a round within the time in which their
// signatures are good.
const maxBenchDuration = 4 * time.Minute

func (o *benchOptions) check() error {
	switch {
	case o.duration <= 0 || o.duration > maxBenchDuration:
		return usagef("-duration: more than 0 and at most %s", maxBenchDuration)
	case o.connections < 1 || o.connections > fewKeys:
		return usagef("-connections: 1 to %d", fewKeys)
	case o.rounds < 1:
		return usagef("-rounds: at least 1")
	case !slices.Contains(isolations, o.isolation):
		return usagef("-isolation: none or process")
	case o.keys < 0:
		return usagef("-keys: not negative")
	}
	var err error
	if o.kinds, err = kindsNamed(o.only); err != nil {
		return usagef("-only: %w", err)
	}
	return nil
}

// bench is a run of the benchmark.
type bench struct {
	*benchEnvironment
	program *program
	options benchOptions
	report  *benchReport
}

// bench measures and returns the report.
func (p *program) bench(ctx context.Context, o benchOptions) (r *benchReport, err error) {
	fmt.Fprintln(p.stderr, "bench: setting up a token, a database and a gateway")
	e, err := openBenchEnvironment(ctx, benchToken{isolation: o.isolation})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.close(ctx)) }()
	b := &bench{benchEnvironment: e, program: p, options: o, report: newBenchReport(o)}
	if err := b.create(ctx, fewKeys); err != nil {
		return nil, err
	}
	loads, err := b.loads(ctx)
	if err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context, []namedLoad) error{b.speed, b.byPart, b.growth, b.memory} {
		if err := step(ctx, loads); err != nil {
			return nil, err
		}
	}
	return b.report, nil
}

// speed measures each kind of request and the raw loop it is held against, in turns.
func (b *bench) speed(ctx context.Context, loads []namedLoad) error {
	samples := make([][]sample, len(loads))
	for round := range b.options.rounds {
		raw := map[rawAlgorithm]rawSample{} // of this round
		for i, l := range loads {
			if _, ok := raw[l.raw]; !ok {
				b.progress("round %d of %d: raw %s %s", round+1, b.options.rounds, l.raw.Spec, l.raw.Algorithm)
				r, err := b.rawLoop(ctx, l.raw, b.options.connections, b.options.duration)
				if err != nil {
					return fmt.Errorf("raw %s %s: %w", l.raw.Spec, l.raw.Algorithm, err)
				}
				raw[l.raw] = r
			}
			b.progress("round %d of %d: %s", round+1, b.options.rounds, l.name)
			s, err := b.measure(ctx, b.timed(l.calls))
			if err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
			s.raw = raw[l.raw]
			samples[i] = append(samples[i], s)
		}
	}
	for i, l := range loads {
		b.report.Operations = append(b.report.Operations, newBenchRow(l.name, samples[i]))
	}
	return nil
}

// timed is a load of the calls for the time of a round.
func (b *bench) timed(calls []benchCall) benchLoad {
	return benchLoad{Calls: calls, Connections: b.options.connections, Duration: b.options.duration}
}

// measure runs one load and counts what it takes.
func (b *bench) measure(ctx context.Context, l benchLoad) (s sample, err error) {
	var took usage
	answer, err := b.load(ctx, l, func() (func() error, error) {
		before, err := b.usage()
		return func() error {
			after, err := b.usage()
			took = after.minus(before)
			return err
		}, err
	})
	if err != nil {
		return s, err
	}
	if answer.Requests == 0 {
		return s, errors.New("no request was answered in a round: use a longer -duration")
	}
	return newSample(answer, took), nil
}

// byPart runs each load once more under the CPU profiler.
func (b *bench) byPart(ctx context.Context, loads []namedLoad) error {
	for _, l := range loads {
		if l.calls[0].Service == "" {
			continue
		}
		b.progress("profile: %s", l.name)
		var profile bytes.Buffer
		var took usage
		answer, err := b.load(ctx, b.timed(l.calls), func() (func() error, error) {
			before, err := b.usage()
			err = errors.Join(err, pprof.StartCPUProfile(&profile))
			return func() error {
				pprof.StopCPUProfile()
				after, err := b.usage()
				took = after.minus(before)
				return err
			}, err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		if err := b.keepProfile(l.name, profile.Bytes()); err != nil {
			return err
		}
		shares, err := sharesOf(profile.Bytes())
		if err != nil {
			return err
		}
		micros := map[string]float64{}
		for part, share := range shares {
			micros[part] = share * perRequest(took.server, answer.Requests)
		}
		b.report.Parts = append(b.report.Parts, benchParts{Name: l.name, Micros: micros})
	}
	return nil
}

// keepProfile writes a profile for go tool pprof, if that was asked for.
func (b *bench) keepProfile(name string, profile []byte) error {
	if b.options.profiles == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(b.options.profiles, name+".pprof"), profile, 0o600)
}

// fewKeys is how many keys there are before there are many; createSamples is
// how many CreateKey calls, one after the other, are measured at each.
const (
	fewKeys       = 100
	createSamples = 200
)

// growth compares CreateKey at few keys and at many.
func (b *bench) growth(ctx context.Context, _ []namedLoad) error {
	if b.options.keys == 0 {
		return nil
	}
	few, err := b.createCost(ctx)
	if err != nil {
		return err
	}
	if err := b.create(ctx, b.options.keys); err != nil {
		return err
	}
	many, err := b.createCost(ctx)
	if err != nil {
		return err
	}
	b.report.CreateKey = &createGrowth{Few: few, Many: many, Ratio: many.Median / few.Median}
	return nil
}

func (b *bench) createCost(ctx context.Context) (createCost, error) {
	call, err := kmsCall("CreateKey", struct{}{})
	if err != nil {
		return createCost{}, err
	}
	b.progress("CreateKey at %d keys", len(b.keys))
	answer, err := b.load(ctx, benchLoad{Calls: []benchCall{call}, Connections: 1, Requests: createSamples}, unmeasured)
	if err != nil {
		return createCost{}, err
	}
	cost := createCost{Keys: len(b.keys), Median: micros(answer.P50)}
	return cost, b.listKeys(ctx)
}

// unmeasured is for loads that nothing is measured of but the answers.
func unmeasured() (func() error, error) { return func() error { return nil }, nil }

// create makes keys until there are n.
func (b *bench) create(ctx context.Context, n int) error {
	call, err := kmsCall("CreateKey", struct{}{})
	if err != nil {
		return err
	}
	missing := n - len(b.keys)
	err = b.inSteps(max(missing, 0), "keys made", func(from, to int) error {
		_, err := b.load(ctx, benchLoad{Calls: []benchCall{call}, Connections: b.options.connections, Requests: to - from}, unmeasured)
		return err
	})
	return errors.Join(err, b.listKeys(ctx))
}

// inSteps does something n times, in steps that are short enough for no
// signature to be too old when it is its turn, and for the requests to weigh
// nothing beside what they are sent to.
func (b *bench) inSteps(n int, what string, do func(from, to int) error) error {
	const step = 1000
	for from := 0; from < n; from += step {
		b.progress("%s: %d of %d", what, from, n)
		if err := do(from, min(from+step, n)); err != nil {
			return err
		}
	}
	return nil
}

// touchedKeys is how many keys are used before the memory is looked at.
const touchedKeys = 10_000

// memory looks at the process after many keys were used once each.
func (b *bench) memory(ctx context.Context, _ []namedLoad) error {
	if b.options.keys == 0 {
		return nil
	}
	keys := b.keys[:min(len(b.keys), touchedKeys)]
	err := b.inSteps(len(keys), "keys used", func(from, to int) error {
		calls, err := callsOn(keys[from:to], encryptCall)
		if err != nil {
			return err
		}
		_, err = b.load(ctx, benchLoad{Calls: calls, Connections: b.options.connections, Requests: len(calls)}, unmeasured)
		return err
	})
	if err != nil {
		return err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.report.Memory = &benchMemory{Keys: len(keys), Resident: mebibytes(residentBytes()), GoHeap: mebibytes(int64(m.HeapInuse))}
	return nil
}

// progress says what is being done now.
func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(b.program.stderr, "bench: "+format+"\n", args...)
}
