package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

const hsmCeremonyUsage = `Makes a new generation of all service keys of a key store, the same in all of its
tokens: for a store with several tokens before init and serve, for a new set of tokens,
and to rotate them. Each token makes a transport pair. The first token makes the service
keys, and wraps them to each of these, without giving them to this process in the clear;
each token unwraps them to keys that cannot be extracted, and proves them. Transport
pairs and what was extractable are destroyed.

Whoever can pass off a transport pair of their own gets the keys. So the fingerprint of
each (SHA-256 of the SubjectPublicKeyInfo, as read from that token) has to be confirmed:
at the prompt, or for scripts by -confirm, once for each token, with what -fingerprints
has shown. Compare them with what the HSM's own tool shows for the key with the label
kmsgate/STORE/transport.

Cut off at any point, it is run again, and makes the keys anew: those of a run that was
cut off never were in use. If it says that a fingerprint is another by then, show and
compare them again: a transport pair serves one ceremony. Then kmsgate hsm rotate-domain-key moves all keys to the new
generation. A store with one token has its keys made in it, and nothing travels.`

// confirmations are fingerprints by the names of tokens.
type confirmations map[string]string

func (c confirmations) String() string { return "" }

func (c confirmations) Set(text string) error {
	name, fingerprint, ok := strings.Cut(text, "=")
	if raw, err := hex.DecodeString(fingerprint); !ok || name == "" || err != nil || len(raw) != sha256.Size || c[name] != "" {
		return errors.New("want NAME=FINGERPRINT, once for each token, with 64 hexadecimal digits")
	}
	c[name] = strings.ToLower(fingerprint)
	return nil
}

var _ flag.Value = confirmations{}

func runHSMCeremony(ctx context.Context, p *program, args []string) error {
	set := p.flags("hsm create-service-keys -config FILE [-store ID] [-fingerprints | -confirm NAME=FINGERPRINT ..]", hsmCeremonyUsage)
	path := set.String("config", "", "configuration `file` (required)")
	store := set.String("store", "", "`id` of the key store; may be left out where there is one")
	show := set.Bool("fingerprints", false, "make the transport pairs, show their fingerprints, and do nothing else")
	confirmed := confirmations{}
	set.Var(confirmed, "confirm", "a token's `NAME=FINGERPRINT`, as it was compared; once for each token")
	if err := p.parse(set, args); err != nil {
		return err
	}
	return p.withInstallation(ctx, *path, func(i *installation) error {
		r, err := i.config.storeNamed(*store)
		if err != nil {
			return err
		}
		for name := range confirmed {
			if !slices.Contains(r.tokens(), name) {
				return usagef("-confirm names the token %q, which key store %s does not have", name, r.Store)
			}
		}
		if err := i.checkTokens(ctx, ceremonyCommand); err != nil {
			return err
		}
		c := &ceremony{installation: i, p: p, region: r, confirmed: confirmed}
		return i.store.Exclusively(ctx, "service keys", func(ctx context.Context) error {
			if *show {
				return c.show(ctx)
			}
			return c.run(ctx)
		})
	})
}

const ceremonyCommand = "hsm create-service-keys"

// ceremonyToken is what a token does in a ceremony.
type ceremonyToken interface {
	tokenEngine
	TransportPair(ctx context.Context, store string) (pkcs11.TransportPair, error)
	PackServiceKeys(ctx context.Context, rows []hsm.ServiceKey, to []pkcs11.TransportPair) ([]hsm.ServiceKey, pkcs11.Parcels, error)
	AdoptServiceKeys(ctx context.Context, rows []hsm.ServiceKey, confirmed pkcs11.TransportPair, parcels [][]byte) error
	DestroyTransportPair(ctx context.Context, store string) error
	DestroyUnfinished(ctx context.Context, rows []hsm.ServiceKey) error
}

// ceremony makes one generation of a key store's service keys in its tokens.
type ceremony struct {
	*installation
	p         *program
	region    regionConfig
	confirmed confirmations

	tokens []ceremonyToken // in the order of the configuration
	pairs  []pkcs11.TransportPair
}

// gather finds the tokens, and their transport pairs if anything is to travel.
func (c *ceremony) gather(ctx context.Context) error {
	for _, name := range c.region.tokens() {
		token, ok := c.byToken[name].(ceremonyToken)
		if !ok {
			return fmt.Errorf("token %s takes no part in ceremonies where its library runs in a process of its own: hold it with isolation: none", name)
		}
		c.tokens = append(c.tokens, token)
	}
	if len(c.tokens) == 1 {
		return nil
	}
	for n, token := range c.tokens {
		pair, err := token.TransportPair(ctx, c.region.Store)
		if err != nil {
			return fmt.Errorf("transport pair of token %s: %w", c.region.tokens()[n], err)
		}
		c.pairs = append(c.pairs, pair)
	}
	return nil
}

// fingerprint is that of the nth token's transport pair.
func (c *ceremony) fingerprint(n int) string {
	sum := sha256.Sum256(c.pairs[n].PublicKey)
	return hex.EncodeToString(sum[:])
}

// show shows the fingerprints.
func (c *ceremony) show(ctx context.Context) error {
	if err := c.gather(ctx); err != nil {
		return err
	}
	if len(c.pairs) == 0 {
		fmt.Fprintf(c.p.stdout, "Key store %s has one token: nothing travels, and there is nothing to confirm.\n", c.region.Store)
		return nil
	}
	var members []string
	for n, name := range c.region.tokens() {
		members = append(members, name+" "+c.fingerprint(n))
		fmt.Fprintf(c.p.stdout, "%s=%s\n", name, c.fingerprint(n))
	}
	return c.record(ctx, adminEvent(ceremonyCommand, "ShowTransportKeys", "", c.region.Name, time.Now(), audit.Members{
		audit.String("keyStore", c.region.Store), audit.Strings("fingerprints", members),
	}))
}

// run holds the ceremony.
func (c *ceremony) run(ctx context.Context) error {
	if err := c.ensureStore(ctx, ceremonyCommand, c.region); err != nil {
		return err
	}
	rows, err := c.store.ServiceKeys(ctx, c.region.Store)
	if err != nil {
		return err
	}
	if err := c.unmoved(ctx, rows); err != nil {
		return err
	}
	if err := c.gather(ctx); err != nil {
		return err
	}
	if err := c.confirm(); err != nil {
		return err
	}
	keys, err := c.announce(ctx, rows)
	if err != nil {
		return err
	}
	made, err := c.make(ctx, keys)
	if err != nil {
		return fmt.Errorf("service keys of key store %s: %w; nothing uses them yet: run the command again", c.region.Store, err)
	}
	if err := c.activate(ctx, rows, made); err != nil {
		return err
	}
	c.explain(made[0].Generation)
	return nil
}

// unmoved refuses another generation while something is to be moved to the newest.
func (c *ceremony) unmoved(ctx context.Context, rows []metadata.ServiceKey) error {
	newest := newestGeneration(rows)
	if newest == 0 || len(creating(rows, newest)) > 0 || c.checkHolders(ctx, c.region, rows) != nil {
		return nil
	}
	older, err := c.store.CountBound(ctx, c.region.Store, newest-1)
	if err == nil && older > 0 {
		err = fmt.Errorf("all tokens have generation %d already, and %s under an older one; run: kmsgate hsm rotate-domain-key -config FILE -store %s",
			newest, counted(int(older), "row is", "rows are"), c.region.Store)
	}
	return err
}

// confirm has the operator confirm every fingerprint.
func (c *ceremony) confirm() error {
	var input *bufio.Reader
	for n := range c.pairs {
		name, fingerprint := c.region.tokens()[n], c.fingerprint(n)
		said, ok := c.confirmed[name]
		switch {
		case ok && said != fingerprint:
			return fmt.Errorf("the transport pair of token %s has the fingerprint %s, and %s was confirmed: nothing was made. A pair serves one ceremony: if one "+
				"was held or cut off since, show and compare the fingerprints again, with -fingerprints; if none was, find out whose key that is", name, fingerprint, said)
		case ok:
			continue
		case !isTerminal(os.Stdin):
			return notConfirmed(name)
		}
		if input == nil {
			input = bufio.NewReader(os.Stdin)
		}
		if err := c.ask(input, name, fingerprint); err != nil {
			return err
		}
	}
	return nil
}

func notConfirmed(name string) error {
	return fmt.Errorf("the fingerprint of token %s is not confirmed: run this with -fingerprints, compare what it shows, and give -confirm %s=FINGERPRINT", name, name)
}

// ask asks at the terminal.
func (c *ceremony) ask(input *bufio.Reader, name, fingerprint string) error {
	fmt.Fprintf(c.p.stdout, "Token %s, transport pair %s\nCompare it with what the HSM shows, and type yes or the fingerprint: ", name, fingerprint)
	line, err := input.ReadString('\n')
	switch {
	case errors.Is(err, io.EOF) && line == "":
		return notConfirmed(name)
	case err != nil && !errors.Is(err, io.EOF):
		return err
	}
	if line = strings.ToLower(strings.TrimSpace(line)); line != "yes" && line != fingerprint {
		return fmt.Errorf("the fingerprint of token %s was not confirmed: nothing was made", name)
	}
	return nil
}

// announce commits the rows of the generation, those that a run before has not.
func (c *ceremony) announce(ctx context.Context, rows []metadata.ServiceKey) ([]hsm.ServiceKey, error) {
	generation, now := newestGeneration(rows)+1, time.Now()
	keys := creating(rows, generation-1)
	var more []hsm.ServiceKey
	for _, kind := range hsm.ServiceKeyKinds {
		if !slices.ContainsFunc(keys, func(k hsm.ServiceKey) bool { return k.Kind == kind }) {
			more = append(more, hsm.ServiceKey{Store: c.region.Store, Kind: kind, Generation: generation, ID: newCKAID()})
		}
	}
	if len(more) == 0 {
		return keys, nil
	}
	return append(keys, more...), c.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		for _, k := range more {
			if err := tx.InsertServiceKey(ctx, k, now); err != nil {
				return nil, err
			}
		}
		return generationEvent(ceremonyCommand, "CreateServiceKeys", c.region, generation, now, serviceKeyIDs(more)), nil
	})
}

// make makes the keys in every token. What a run before has left is no key of
// anybody's, and goes first.
func (c *ceremony) make(ctx context.Context, keys []hsm.ServiceKey) ([]hsm.ServiceKey, error) {
	for n, token := range c.tokens {
		if err := token.DestroyUnfinished(ctx, keys); err != nil {
			return nil, fmt.Errorf("token %s: what is left of a run that was cut off: %w", c.region.tokens()[n], err)
		}
	}
	if len(c.tokens) == 1 {
		return c.tokens[0].CreateServiceKeys(ctx, keys)
	}
	made, parcels, err := c.tokens[0].PackServiceKeys(ctx, keys, c.pairs)
	if err != nil {
		return nil, fmt.Errorf("token %s: %w", c.region.tokens()[0], err)
	}
	for n, token := range c.tokens {
		if err := token.AdoptServiceKeys(ctx, made, c.pairs[n], parcels[n]); err != nil {
			return nil, fmt.Errorf("token %s: %w", c.region.tokens()[n], err)
		}
	}
	for n, token := range c.tokens {
		if err := token.DestroyTransportPair(ctx, c.region.Store); err != nil {
			return nil, fmt.Errorf("token %s: transport pair: %w", c.region.tokens()[n], err)
		}
	}
	return made, nil
}

// activate retires what is active and activates the new generation, in one
// transaction.
func (c *ceremony) activate(ctx context.Context, rows []metadata.ServiceKey, made []hsm.ServiceKey) error {
	var serials, fingerprints []string
	for n, token := range c.tokens {
		serials = append(serials, token.Stats().Serial)
		if n < len(c.pairs) {
			fingerprints = append(fingerprints, c.region.tokens()[n]+" "+c.fingerprint(n))
		}
	}
	now := time.Now()
	return c.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		if err := retireActive(ctx, tx, rows, made); err != nil {
			return nil, err
		}
		for _, k := range made {
			if err := tx.ActivateServiceKey(ctx, k, serials); err != nil {
				return nil, err
			}
		}
		return generationEvent(ceremonyCommand, "ActivateServiceKeys", c.region, made[0].Generation, now, serviceKeyIDs(made),
			audit.Strings("serialNumbers", serials), audit.Strings("fingerprints", fingerprints)), nil
	})
}

// retireActive retires the active keys of the kinds of which others were made.
func retireActive(ctx context.Context, tx *metadata.Tx, rows []metadata.ServiceKey, made []hsm.ServiceKey) error {
	for _, k := range rows {
		if k.State == metadata.ServiceKeyActive && slices.ContainsFunc(made, func(m hsm.ServiceKey) bool { return m.Kind == k.Kind }) {
			if err := tx.RetireServiceKey(ctx, k.ServiceKey); err != nil {
				return err
			}
		}
	}
	return nil
}

// explain says what there is now and what comes next.
func (c *ceremony) explain(generation int32) {
	fmt.Fprintf(c.p.stdout, "Generation %d of the service keys of key store %s is in: %s.\n", generation, c.region.Store, strings.Join(c.region.tokens(), ", "))
	if generation > 1 {
		fmt.Fprintf(c.p.stdout, "Next, move all keys and secrets to it: kmsgate hsm rotate-domain-key -config FILE -store %s\n", c.region.Store)
		return
	}
	fmt.Fprintln(c.p.stdout, "Next, make the first account: kmsgate init -config FILE -account ACCOUNT")
}
