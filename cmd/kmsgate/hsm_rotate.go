package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

const hsmRotateUsage = `Makes a new generation of a key store's domain and binding key in its token, and
moves all keys of the store to it, inside the token: each blob is unwrapped there
and wrapped again, and each row is bound anew. Keys, ciphertexts and callers notice
nothing, and the gateway may serve meanwhile. The old generation stays and opens what
old backups have, until kmsgate hsm destroy-domain-key. BACK UP THE HSM AFTERWARDS, AT
ONCE: an older backup of it does not have the new generation, and nothing else opens what
is under that.

Cut off at any point, it goes on where it was when it is run again: as long as a row
names an older generation no new one is made. Of several at once one works at a time.
Of a store with several tokens, kmsgate hsm create-service-keys makes the generation, and
this moves everything to it. Secrets of access keys and session keys are under the
sealing key, of which that command makes a new one too: they are sealed anew if they are
under an older one.`

func runHSMRotateDomainKey(ctx context.Context, p *program, args []string) error {
	set := p.flags("hsm rotate-domain-key -config FILE [-store ID] [-workers N]", hsmRotateUsage)
	path := set.String("config", "", "configuration `file` (required)")
	store := set.String("store", "", "`id` of the key store; may be left out where there is one")
	workers := set.Int("workers", 4, "`number` of batches that are moved at once; fewer leave more of the HSM to the gateway")
	if err := p.parse(set, args); err != nil {
		return err
	}
	if *workers < 1 || *workers > maxWorkers {
		return usagef("-workers is %d: use 1 to %d", *workers, maxWorkers)
	}
	return p.withWorkers(ctx, rotateCommand, *path, *workers, func(i *installation) error {
		r, err := i.config.storeNamed(*store)
		if err != nil {
			return err
		}
		return i.rotateDomainKey(ctx, p, r, *workers)
	})
}

// withWorkers opens what the configuration names for a command that has the token do
// as much at once: background work may hold a quarter of the sessions. Tokens that are
// not what they were are refused, as by serve.
func (p *program) withWorkers(ctx context.Context, command, path string, workers int, do func(*installation) error) error {
	c, logger, err := p.configuration(path)
	if err != nil {
		return err
	}
	for m := range c.Modules {
		for t := range c.Modules[m].Tokens {
			c.Modules[m].Tokens[t].MaxSessions = 4 * workers
		}
	}
	i, err := openInstallation(ctx, c, logger, nil)
	if err != nil {
		return err
	}
	if err = i.checkTokens(ctx, command); err == nil {
		err = do(i)
	}
	return errors.Join(err, i.close(ctx))
}

// storeNamed is the region whose key store has an id, or the only one.
func (c *config) storeNamed(id string) (regionConfig, error) {
	var ids []string
	for _, r := range c.Regions {
		if r.Store == id || id == "" && len(c.Regions) == 1 {
			return r, nil
		}
		ids = append(ids, r.Store)
	}
	if id == "" {
		return regionConfig{}, usagef("-store is missing: one of %s", strings.Join(ids, ", "))
	}
	return regionConfig{}, fmt.Errorf("no key store %q is configured; there are %s", id, strings.Join(ids, ", "))
}

// newestGeneration is the generation of a store's active domain key; 0 without one.
func newestGeneration(rows []metadata.ServiceKey) int32 {
	for _, k := range rows {
		if k.Kind == hsm.DomainKey && k.State == metadata.ServiceKeyActive {
			return k.Generation
		}
	}
	return 0
}

// rotateDomainKey makes a new generation, or finds that there is one to be moved to,
// and moves the store's rows.
func (i *installation) rotateDomainKey(ctx context.Context, p *program, r regionConfig, workers int) error {
	rows, err := i.store.ServiceKeys(ctx, r.Store)
	if err != nil {
		return err
	}
	seen := newestGeneration(rows)
	if seen == 0 {
		return fmt.Errorf("key store %s has no domain key yet; run: %s", r.Store, r.makeKeysBy())
	}
	var to int32
	err = i.store.Exclusively(ctx, "service keys", func(ctx context.Context) (err error) {
		to, err = i.ensureGeneration(ctx, p, r, seen)
		return err
	})
	if err != nil {
		return fmt.Errorf("new generation for key store %s: %w; run the command again", r.Store, err)
	}
	settled := time.Now().Add(settleTime)
	return i.store.Exclusively(ctx, "rows of "+r.Store, func(ctx context.Context) error {
		m := &mover{installation: i, out: p.stderr, region: r, to: to, workers: workers}
		if err := m.moveAll(ctx); err != nil {
			return err
		}
		// Other instances may have made keys before they knew the new generation.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(settled)):
		}
		if err := m.moveAll(ctx); err != nil {
			return err
		}
		s := &sealer{installation: i, out: p.stderr, region: r}
		if err := s.resealAll(ctx); err != nil {
			return err
		}
		if s.sealed > 0 {
			fmt.Fprintf(p.stdout, "%s sealed anew.\n", counted(s.sealed, "secret was", "secrets were"))
		}
		fmt.Fprintf(p.stdout, "All rows of key store %s are under generation %d of its domain key; %d were moved.\n", r.Store, to, m.moved.Load())
		fmt.Fprintf(p.stdout, "Back up the HSM now: an older backup of it does not have that generation, and without it no key opens.\n"+
			"Older generations still open what backups have. Make a backup of the database, too; once it is restored for a\ntest, they can be destroyed: kmsgate hsm destroy-domain-key -h\n")
		return nil
	})
}

// settleTime is after how long all instances make keys under a new generation.
const settleTime = 2*lookEvery + time.Second

// ensureGeneration returns the generation that the rows are to be moved to. It makes
// one only if all rows are under the newest, and if nobody has made another since the
// caller has looked.
func (i *installation) ensureGeneration(ctx context.Context, p *program, r regionConfig, seen int32) (int32, error) {
	rows, err := i.store.ServiceKeys(ctx, r.Store)
	if err != nil {
		return 0, err
	}
	newest := newestGeneration(rows)
	making := creating(rows, newest)
	if len(making) == 0 {
		older, err := i.store.CountBound(ctx, r.Store, newest-1)
		if err != nil {
			return 0, err
		}
		if newest != seen || older > 0 {
			fmt.Fprintf(p.stderr, "Generation %d is there already; %d rows are to be moved to it.\n", newest, older)
			return newest, i.byStore[r.Store].LearnServiceKeys(ctx, r.Store)
		}
		if len(r.Tokens) > 0 {
			return i.ceremonyGeneration(ctx, p, r, rows, newest)
		}
		if making, err = i.announceGeneration(ctx, r, newest+1); err != nil {
			return 0, err
		}
	}
	if len(r.Tokens) > 0 {
		return 0, fmt.Errorf("generation %d was being made in several tokens; first run: %s", newest+1, r.makeKeysBy())
	}
	if err := i.makeGeneration(ctx, r, rows, making); err != nil {
		return 0, err
	}
	fmt.Fprintf(p.stderr, "Generation %d of domain and binding key of key store %s is in the token.\n", newest+1, r.Store)
	return newest + 1, nil
}

// ceremonyGeneration is the newest generation, of a store with several tokens: another
// one is made in a ceremony. Secrets may still be under an older one.
func (i *installation) ceremonyGeneration(ctx context.Context, p *program, r regionConfig, rows []metadata.ServiceKey, newest int32) (int32, error) {
	for _, k := range rows {
		if k.Kind != hsm.SealingKey || k.State != metadata.ServiceKeyRetired {
			continue
		}
		if n, err := i.store.CountSealed(ctx, r.Store, k.Generation); err != nil || n > 0 {
			return newest, err
		}
	}
	fmt.Fprintf(p.stderr, "Everything is under generation %d already. Another one, in all tokens of the store: %s\n", newest, r.makeKeysBy())
	return newest, nil
}

// creating are the keys of the generation after one that were being made.
func creating(rows []metadata.ServiceKey, after int32) (keys []hsm.ServiceKey) {
	for _, k := range rows {
		if k.State == metadata.ServiceKeyCreating && k.Generation == after+1 {
			keys = append(keys, k.ServiceKey)
		}
	}
	return keys
}

// rotatedKinds are the kinds of which materials name one generation for both.
var rotatedKinds = []hsm.ServiceKeyKind{hsm.DomainKey, hsm.BindingKey}

const rotateCommand = "hsm rotate-domain-key"

// announceGeneration commits the rows of a generation before its objects are made.
func (i *installation) announceGeneration(ctx context.Context, r regionConfig, generation int32) ([]hsm.ServiceKey, error) {
	now := time.Now()
	keys := make([]hsm.ServiceKey, 0, len(rotatedKinds))
	for _, kind := range rotatedKinds {
		keys = append(keys, hsm.ServiceKey{Store: r.Store, Kind: kind, Generation: generation, ID: newCKAID()})
	}
	return keys, i.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		for _, k := range keys {
			if err := tx.InsertServiceKey(ctx, k, now); err != nil {
				return nil, err
			}
		}
		return generationEvent(rotateCommand, "CreateServiceKeys", r, generation, now, serviceKeyIDs(keys)), nil
	})
}

// makeGeneration makes the objects, and then in one transaction retires the active
// generation and activates the new one.
func (i *installation) makeGeneration(ctx context.Context, r regionConfig, rows []metadata.ServiceKey, keys []hsm.ServiceKey) error {
	engine := i.byStore[r.Store]
	made, err := engine.CreateServiceKeys(ctx, keys)
	if err != nil {
		return err
	}
	now := time.Now()
	return i.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		if err := retireActive(ctx, tx, rows, made); err != nil {
			return nil, err
		}
		for _, k := range made {
			if err := tx.ActivateServiceKey(ctx, k, []string{engine.Stats().Serial}); err != nil {
				return nil, err
			}
		}
		return generationEvent(rotateCommand, "RotateDomainKey", r, made[0].Generation, now, serviceKeyIDs(made)), nil
	})
}

// generationEvent is the record of something done with a generation of a key store's
// domain and binding keys.
func generationEvent(command, name string, r regionConfig, generation int32, now time.Time, more ...audit.Member) []byte {
	return adminEvent(command, name, "", r.Name, now, append(audit.Members{
		audit.String("keyStore", r.Store), audit.Int("generation", int64(generation)),
	}, more...))
}

// serviceKeyIDs names keys in a record, by kind and CKA_ID.
func serviceKeyIDs(keys []hsm.ServiceKey) audit.Member {
	ids := make([]string, 0, len(keys))
	for _, k := range keys {
		ids = append(ids, fmt.Sprintf("%s %x", k.Kind, k.ID))
	}
	return audit.Strings("serviceKeys", ids)
}

// background is how these commands ask a token: clients come first.
var background = hsm.Call{Class: hsm.Background}

// patiently asks a token again that is away for a while, as it is when it reconnects.
func patiently(ctx context.Context, ask func() ([]pkcs11.Batched, error)) (outcomes []pkcs11.Batched, err error) {
	const attempts, pause = 10, 2 * time.Second
	for n := range attempts {
		outcomes, err = ask()
		away := errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, hsm.ErrBusy) || errors.Is(err, hsm.ErrDeadline)
		if !away || n == attempts-1 {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
	return outcomes, err
}
