package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"golang.org/x/sync/errgroup"
)

const (
	crashes      = 10
	crashClients = 8
)

// TestCrash kills the gateway under load, again and again, twice together with its
// Postgres, and looks at the end for everything that was ever acknowledged.
func TestCrash(t *testing.T) {
	t.Parallel()
	l := launch{dir: newPlace(t)}
	i := l.start(t)
	books := make([]*book, crashClients)
	for n := range books {
		books[n] = &book{owner: n, answers: map[string]string{}}
	}
	for round := range crashes {
		var acknowledged atomic.Int64
		var clients sync.WaitGroup
		for _, b := range books {
			clients.Go(func() { b.work(i, round, &acknowledged) })
		}
		enough := int64(50 + rand.IntN(200))
		eventually(t, "answers", func() bool { return acknowledged.Load() >= enough })
		server := postmaster(t, i.data())
		killed := map[int][]int{3: {i.cmd.Process.Pid, server}, 7: {server, i.cmd.Process.Pid}}[round]
		for _, pid := range killed {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		i.kill()
		clients.Wait()
		t.Logf("round %d: killed after %d answers, Postgres too: %v", round, acknowledged.Load(), len(killed) > 0)
		i = l.start(t)
	}
	for _, b := range books {
		for _, p := range b.problems {
			t.Error(p)
		}
		b.compare(t, i)
	}
	i.wantAllUsable(t, books)
	i.awaitTakenUp(t)
	i.mustStop(t)
	log := openLog(t, i)
	log.wantWhole(t)
	log.wantOnce(t, books)
	log.wantUsesCounted(t)
}

// A book is what one client was told by the gateway, over all its lives: what it
// may rely on. Only the client changes its keys.
type book struct {
	owner    int
	answers  map[string]string // the operation by request id
	keys     []*bookedKey
	problems problems
}

// bookedKey is a key whose making was acknowledged.
type bookedKey struct {
	id       string
	disabled bool
	tags     map[string]string
	aliases  []string
	sealed   []sealed

	// A change that was not answered may hold or not.
	stateUnsure bool
}

// keysOfBook bounds the keys of a client, so that crashes meet old ones too.
const keysOfBook = 20

// work sends requests until one gets no answer.
func (b *book) work(i *instance, round int, acknowledged *atomic.Int64) {
	c := i.newClient(own)
	for n := 0; ; n++ {
		if b.step(c, fmt.Sprintf("%d-%d-%d", b.owner, round, n)) {
			acknowledged.Add(1)
			continue
		}
		return
	}
}

// step sends one request of a kind chosen by chance, and tells whether it was
// answered.
func (b *book) step(c *client, name string) bool {
	if len(b.keys) == 0 || len(b.keys) < keysOfBook && rand.IntN(8) == 0 {
		return b.createKey(c, name)
	}
	k := b.keys[rand.IntN(len(b.keys))]
	steps := []func(*client, *bookedKey, string) bool{
		b.encrypt, b.encrypt, b.encrypt, b.generateDataKey, b.generateDataKey, b.toggle, b.tag, b.createAlias, b.misspell,
	}
	return steps[rand.IntN(len(steps))](c, k, name)
}

// note writes an answer down. It is false if there was none that can be relied on:
// the client's time in this round is over.
func (b *book) note(c *client, operation string, err error) bool {
	if err != nil && (!answered(err) || c.last.status >= 500) {
		return false
	}
	b.answers[c.last.requestID()] = operation
	if err != nil {
		b.problems.add("%s: %v", operation, err)
	}
	return true
}

func (b *book) createKey(c *client, name string) bool {
	out, err := c.CreateKey(context.Background(), &kms.CreateKeyInput{Description: &name})
	if !b.note(c, "CreateKey", err) {
		return false
	}
	if err == nil {
		b.keys = append(b.keys, &bookedKey{id: *out.KeyMetadata.KeyId, tags: map[string]string{}})
	}
	return true
}

func (b *book) encrypt(c *client, k *bookedKey, name string) bool {
	if k.disabled || k.stateUnsure {
		return b.toggle(c, k, name)
	}
	out, err := c.Encrypt(context.Background(), &kms.EncryptInput{KeyId: &k.id, Plaintext: []byte(name)})
	if !b.note(c, "Encrypt", err) {
		return false
	}
	if err == nil {
		k.sealed = append(k.sealed, sealed{*out.KeyId, []byte(name), out.CiphertextBlob})
	}
	return true
}

func (b *book) generateDataKey(c *client, k *bookedKey, name string) bool {
	if k.disabled || k.stateUnsure {
		return b.toggle(c, k, name)
	}
	out, err := c.GenerateDataKey(context.Background(), &kms.GenerateDataKeyInput{KeyId: &k.id, KeySpec: types.DataKeySpecAes256})
	if !b.note(c, "GenerateDataKey", err) {
		return false
	}
	if err == nil {
		k.sealed = append(k.sealed, sealed{*out.KeyId, out.Plaintext, out.CiphertextBlob})
	}
	return true
}

// toggle disables an enabled key, and enables any other.
func (b *book) toggle(c *client, k *bookedKey, _ string) bool {
	disable := !k.disabled && !k.stateUnsure
	k.stateUnsure = true
	var err error
	operation := "EnableKey"
	if disable {
		operation = "DisableKey"
		_, err = c.DisableKey(context.Background(), &kms.DisableKeyInput{KeyId: &k.id})
	} else {
		_, err = c.EnableKey(context.Background(), &kms.EnableKeyInput{KeyId: &k.id})
	}
	if !b.note(c, operation, err) {
		return false
	}
	if err == nil {
		k.disabled, k.stateUnsure = disable, false
	}
	return true
}

// maxBooked is how many tags and aliases a key gets; it may have 50.
const maxBooked = 20

func (b *book) tag(c *client, k *bookedKey, name string) bool {
	if len(k.tags) >= maxBooked {
		return b.misspell(c, k, name)
	}
	_, err := c.TagResource(context.Background(), &kms.TagResourceInput{KeyId: &k.id, Tags: []types.Tag{{TagKey: &name, TagValue: &name}}})
	if !b.note(c, "TagResource", err) {
		return false
	}
	if err == nil {
		k.tags[name] = name
	}
	return true
}

func (b *book) createAlias(c *client, k *bookedKey, name string) bool {
	if len(k.aliases) >= maxBooked {
		return b.misspell(c, k, name)
	}
	alias := "alias/" + name
	_, err := c.CreateAlias(context.Background(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &k.id})
	if !b.note(c, "CreateAlias", err) {
		return false
	}
	if err == nil {
		k.aliases = append(k.aliases, alias)
	}
	return true
}

// misspell asks for what is not there: refusals are on record too.
func (b *book) misspell(c *client, _ *bookedKey, name string) bool {
	alias := "alias/none-" + name
	_, err := c.DescribeKey(context.Background(), &kms.DescribeKeyInput{KeyId: &alias})
	if err == nil {
		b.problems.add("DescribeKey(%s) was answered, want NotFoundException", alias)
		return false
	}
	if !answered(err) || c.last.status >= 500 {
		return false
	}
	b.answers[c.last.requestID()] = "DescribeKey"
	return true
}

// compare looks for everything that a client was told.
func (b *book) compare(t *testing.T, i *instance) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(crashClients)
	for _, k := range b.keys {
		group.Go(func() error { return k.compare(i.newClient(own)) })
	}
	if err := group.Wait(); err != nil {
		t.Errorf("what client %d was told: %v", b.owner, err)
	}
}

func (k *bookedKey) compare(c *client) error {
	ctx := context.Background()
	described, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &k.id})
	if err != nil {
		return fmt.Errorf("key %s: %w", k.id, err)
	}
	if got := !described.KeyMetadata.Enabled; got != k.disabled && !k.stateUnsure {
		return fmt.Errorf("key %s: disabled %v, want %v", k.id, got, k.disabled)
	}
	tags, err := c.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: &k.id})
	if err != nil {
		return fmt.Errorf("tags of key %s: %w", k.id, err)
	}
	got := map[string]string{}
	for _, tag := range tags.Tags {
		got[*tag.TagKey] = *tag.TagValue
	}
	for name, value := range k.tags {
		if got[name] != value {
			return fmt.Errorf("key %s: tag %s is %q, want %q", k.id, name, got[name], value)
		}
	}
	for _, alias := range k.aliases {
		target, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &alias})
		if err != nil {
			return fmt.Errorf("%s: %w", alias, err)
		}
		if *target.KeyMetadata.KeyId != k.id {
			return fmt.Errorf("%s is key %s, want %s", alias, *target.KeyMetadata.KeyId, k.id)
		}
	}
	return k.open(ctx, c)
}

// open opens what the key has sealed.
func (k *bookedKey) open(ctx context.Context, c *client) error {
	if _, err := c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &k.id}); err != nil {
		return fmt.Errorf("enable key %s: %w", k.id, err)
	}
	for _, s := range k.sealed {
		out, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: s.ciphertext})
		if err != nil {
			return fmt.Errorf("decrypt under key %s: %w", k.id, err)
		}
		if string(out.Plaintext) != string(s.plaintext) || *out.KeyId != s.key {
			return fmt.Errorf("decrypted to %q under %s, want %q under %s", out.Plaintext, *out.KeyId, s.plaintext, s.key)
		}
	}
	return nil
}

// wantAllUsable wants every key that is listed to be whole, also those whose
// making nobody was told of, and every alias to lead to one.
func (i *instance) wantAllUsable(t *testing.T, books []*book) {
	t.Helper()
	c := i.newClient(own)
	var listed []string
	keys := kms.NewListKeysPaginator(c, &kms.ListKeysInput{})
	for keys.HasMorePages() {
		page, err := keys.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page.Keys {
			listed = append(listed, *k.KeyId)
		}
	}
	told := 0
	for _, b := range books {
		for _, k := range b.keys {
			told++
			if !slices.Contains(listed, k.id) {
				t.Errorf("key %s was acknowledged and is not listed", k.id)
			}
		}
	}
	t.Logf("%d keys are listed, %d of them were acknowledged", len(listed), told)
	for _, id := range listed {
		if err := usable(t.Context(), c, id); err != nil {
			t.Errorf("key %s is listed and not usable: %v", id, err)
		}
	}
	aliases := kms.NewListAliasesPaginator(c, &kms.ListAliasesInput{})
	for aliases.HasMorePages() {
		page, err := aliases.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Aliases {
			if a.TargetKeyId != nil && !slices.Contains(listed, *a.TargetKeyId) {
				t.Errorf("%s leads to key %s, which is not listed", *a.AliasName, *a.TargetKeyId)
			}
		}
	}
}

// usable does with a key what one does with a key.
func usable(ctx context.Context, c *client, id string) error {
	if _, err := c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &id}); err != nil {
		return err
	}
	if _, err := c.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &id}); err != nil {
		return err
	}
	out, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &id, Plaintext: []byte("x")})
	if err != nil {
		return err
	}
	opened, err := c.Decrypt(ctx, &kms.DecryptInput{KeyId: &id, CiphertextBlob: out.CiphertextBlob})
	if err == nil && string(opened.Plaintext) != "x" {
		err = fmt.Errorf("decrypted to %q, want %q", opened.Plaintext, "x")
	}
	return err
}
