package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/policy"
)

const benchKeysUsage = `Measures whether many keys in an account make requests slower: the same requests,
one after the other, at 100 keys and again at -keys, each with an alias. Those that
fill the account up are rows without a key; all keys that are used are real.

GetCallerIdentity looks at no key: its ratio is what the machine did meanwhile.
First uses are of keys and aliases that the gateway has not in its memory yet.`

// keysOptions are the flags of bench keys.
type keysOptions struct {
	keys, rounds int
	json         bool
}

func runBenchKeys(ctx context.Context, p *program, args []string) error {
	set := p.flags("bench keys [flags]", benchKeysUsage)
	var o keysOptions
	set.IntVar(&o.keys, "keys", 100_000, "`keys` of the account when it has many")
	set.IntVar(&o.rounds, "rounds", 5, "`rounds` of what can be measured again")
	set.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	if err := p.parse(set, args); err != nil {
		return err
	}
	switch {
	case o.keys <= fewKeys:
		return usagef("-keys: more than %d", fewKeys)
	case o.rounds < 1:
		return usagef("-rounds: at least 1")
	}
	r, err := p.benchKeys(ctx, o)
	if err != nil {
		return err
	}
	return r.print(p.stdout, o.json)
}

// keysBench is a run of bench keys.
type keysBench struct {
	*bench
	options keysOptions
}

func (p *program) benchKeys(ctx context.Context, o keysOptions) (r *modeReport, err error) {
	fmt.Fprintln(p.stderr, "bench: setting up a token, a database and a gateway")
	e, err := openBenchEnvironment(ctx, benchToken{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.close(ctx)) }()
	b := &keysBench{bench: &bench{benchEnvironment: e, program: p, options: benchOptions{connections: 16}}, options: o}
	few, err := b.phase(ctx, "few")
	if err != nil {
		return nil, err
	}
	if err := b.fill(ctx, o.keys-fewKeys-len(b.keys)); err != nil {
		return nil, err
	}
	many, err := b.phase(ctx, "many")
	if err != nil {
		return nil, err
	}
	r = newModeReport([]string{fmt.Sprintf("ms at %d keys", fewKeys), fmt.Sprintf("ms at %d keys", o.keys), "ratio"},
		"one request at a time, medians of %d rounds", o.rounds)
	for i, f := range few {
		at, then := median(f.latencies)/1e3, median(many[i].latencies)/1e3
		r.Rows = append(r.Rows, modeRow{Name: f.name, Values: []float64{at, then, then / at}})
	}
	return r, nil
}

// keysKind is a kind of request with its median latencies, by round.
type keysKind struct {
	name             string
	calls            []benchCall
	requests, rounds int // a round's, and how many
	latencies        []float64
}

// keysSamples is how many requests of a kind a round measures.
const keysSamples = 200

// phase makes fewKeys keys more and measures requests on them. Keys are made last, for
// then there are more.
func (b *keysBench) phase(ctx context.Context, name string) ([]keysKind, error) {
	kinds, err := b.kinds(ctx, name)
	if err != nil {
		return nil, err
	}
	for i := range kinds {
		k := &kinds[i]
		b.progress("%s keys: %s", name, k.name)
		for range k.rounds {
			answer, err := b.load(ctx, benchLoad{Calls: k.calls, Connections: 1, Requests: k.requests}, unmeasured)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.name, err)
			}
			k.latencies = append(k.latencies, micros(answer.P50))
		}
	}
	return kinds, b.listKeys(ctx)
}

// kinds are what is measured: what finds nothing in memory goes first, and once.
func (b *keysBench) kinds(ctx context.Context, name string) ([]keysKind, error) {
	aliases, others, err := b.fresh(ctx, name)
	if err != nil {
		return nil, err
	}
	described, err := callsOn(aliases, describeCall)
	if err != nil {
		return nil, err
	}
	encrypted, err := callsOn(others, encryptCall)
	if err != nil {
		return nil, err
	}
	first, middle, err := b.listCalls(ctx)
	if err != nil {
		return nil, err
	}
	created, err := kmsCall("CreateKey", struct{}{})
	rounds := b.options.rounds
	return []keysKind{
		{name: "DescribeKey by alias, first use", calls: described, requests: len(described), rounds: 1},
		{name: "Encrypt, first use", calls: encrypted, requests: len(encrypted), rounds: 1},
		{name: "GetCallerIdentity", calls: []benchCall{callerCall}, requests: keysSamples, rounds: rounds},
		{name: "DescribeKey by alias", calls: described, requests: keysSamples, rounds: rounds},
		{name: "Encrypt", calls: encrypted, requests: keysSamples, rounds: rounds},
		{name: "ListKeys, first page", calls: []benchCall{first}, requests: keysSamples, rounds: rounds},
		{name: "ListKeys, page in the middle", calls: []benchCall{middle}, requests: keysSamples, rounds: rounds},
		{name: "CreateKey", calls: []benchCall{created}, requests: keysSamples, rounds: rounds},
	}, err
}

// fresh makes fewKeys keys, and an alias for each of the first half of them.
func (b *keysBench) fresh(ctx context.Context, name string) (aliases, others []string, err error) {
	var made struct {
		KeyMetadata struct {
			KeyID string `json:"KeyId"`
		}
	}
	for i := range fewKeys {
		if err := b.api(ctx, "CreateKey", struct{}{}, &made); err != nil {
			return nil, nil, err
		}
		if i >= fewKeys/2 {
			others = append(others, made.KeyMetadata.KeyID)
			continue
		}
		alias := fmt.Sprintf("alias/bench-%s-%d", name, i)
		err := b.api(ctx, "CreateAlias", struct {
			AliasName   string
			TargetKeyID string `json:"TargetKeyId"`
		}{alias, made.KeyMetadata.KeyID}, nil)
		if err != nil {
			return nil, nil, err
		}
		aliases = append(aliases, alias)
	}
	return aliases, others, nil
}

func describeCall(key string) (benchCall, error) {
	return kmsCall("DescribeKey", struct {
		KeyID string `json:"KeyId"`
	}{key})
}

// listBody asks for a page of a list.
type listBody struct {
	Limit  int
	Marker string `json:",omitempty"`
}

// listCalls ask for the first page of the keys, and for one in the middle, of as many.
func (b *keysBench) listCalls(ctx context.Context) (first, middle benchCall, err error) {
	const page, most = fewKeys / 4, 1000
	if err := b.listKeys(ctx); err != nil {
		return first, middle, err
	}
	var answer struct{ NextMarker string }
	for left := len(b.keys) / 2; left > 0 && err == nil; left -= min(left, most) {
		err = b.api(ctx, "ListKeys", listBody{min(left, most), answer.NextMarker}, &answer)
	}
	if err == nil {
		middle, err = kmsCall("ListKeys", listBody{page, answer.NextMarker})
	}
	if err == nil {
		first, err = kmsCall("ListKeys", listBody{Limit: page})
	}
	return first, middle, err
}

// fill adds rows of n keys, each with an alias.
func (b *keysBench) fill(ctx context.Context, n int) error {
	const together, goroutines = 250, 4
	next := make(chan int)
	errs := make([]error, goroutines)
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			for keys := range next {
				if errs[i] == nil {
					errs[i] = b.fillSome(ctx, keys)
				}
			}
		})
	}
	for from := 0; from < n; from += together {
		if from%(40*together) == 0 {
			b.progress("rows of keys: %d of %d", from, n)
		}
		next <- min(together, n-from)
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

func (b *keysBench) fillSome(ctx context.Context, n int) error {
	now, event := time.Now(), adminEvent("bench", "CreateKey", benchAccount, benchRegion, time.Now(), nil)
	document := metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(benchAccount)}
	return b.installed.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		for range n {
			k, m := b.filler(now)
			alias := metadata.Alias{Account: k.Account, Region: k.Region, Name: "alias/" + k.ID, KeyID: k.ID, CreatedAt: now}
			err := tx.InsertKey(ctx, k, m, document, nil)
			if err == nil {
				err = tx.InsertAlias(ctx, alias, metadata.MaxAliases)
			}
			if err != nil {
				return nil, err
			}
		}
		return event, nil
	})
}

// filler is a row like a key's, with a material that nothing opens.
func (b *keysBench) filler(now time.Time) (metadata.Key, metadata.Material) {
	k := metadata.Key{
		Region: benchRegion, ID: uuid.NewString(), Account: benchAccount, Store: b.config().Regions[0].Store,
		Spec: keyspec.SymmetricDefault, Usage: keyspec.EncryptDecrypt, Origin: keyspec.AWSKMS, State: metadata.Enabled, CreatedAt: now,
	}
	m := metadata.Material{Current: true, CreatedAt: now, Key: hsm.Key{
		Store: k.Store, Region: k.Region, Account: k.Account, KeyID: k.ID, Spec: k.Spec, Usage: k.Usage, Origin: k.Origin,
		Residency: hsm.Wrapped, Generation: 1, Blob: make([]byte, 40), CheckValue: make([]byte, 64), Binding: make([]byte, 32),
	}}
	_, _ = rand.Read(m.MaterialID[:]) // never fails
	return k, m
}
