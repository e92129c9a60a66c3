package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"kmsgate/hsm"
	"kmsgate/metadata"
)

// Beginnings of the labels that keys of ours have.
const (
	labelOfOurs    = "kmsgate/" // service keys and the key of the API's certificate
	labelOfKMSKeys = "kms/"     // KMS keys that live in the token
)

// mustBe are the attributes that an object of ours has to have.
type mustBe map[string]bool

// with is these attributes and more.
func (m mustBe) with(more mustBe) mustBe {
	all := maps.Clone(m)
	maps.Copy(all, more)
	return all
}

var (
	// neverLeaves holds for every key that is made for the gateway itself.
	neverLeaves = mustBe{"TOKEN": true, "PRIVATE": true, "SENSITIVE": true, "EXTRACTABLE": false, "NEVER_EXTRACTABLE": true}
	// unreadable holds for service keys.
	unreadable = neverLeaves.with(mustBe{"ALWAYS_SENSITIVE": true})
	// unchanging holds for those that no copy is used of; see copy.go in hsm/pkcs11.
	unchanging = unreadable.with(mustBe{"MODIFIABLE": false})
	// kmsKeyMustBe leaves room for imported keys, which were outside once.
	kmsKeyMustBe = mustBe{"TOKEN": true, "PRIVATE": true, "SENSITIVE": true, "EXTRACTABLE": false, "MODIFIABLE": false}
	noUse        = mustBe{"ENCRYPT": false, "DECRYPT": false, "SIGN": false, "VERIFY": false, "WRAP": false, "UNWRAP": false, "DERIVE": false}

	serviceKeyMustBe = map[hsm.ServiceKeyKind]mustBe{
		hsm.DomainKey:  unchanging.with(noUse).with(mustBe{"WRAP": true, "UNWRAP": true}),
		hsm.BindingKey: unreadable.with(noUse).with(mustBe{"SIGN": true, "VERIFY": true}),
		hsm.SealingKey: unchanging.with(noUse).with(mustBe{"ENCRYPT": true, "DECRYPT": true}),
	}
	// carried leaves out what no token says of a key that was unwrapped, as the service
	// keys of several tokens are.
	carried = []string{"NEVER_EXTRACTABLE", "ALWAYS_SENSITIVE"}

	transportMustBe = neverLeaves.with(noUse).with(mustBe{"MODIFIABLE": false, "UNWRAP": true})

	tlsKeyMustBe = neverLeaves.with(mustBe{"SIGN": true, "DECRYPT": false, "UNWRAP": false, "DERIVE": false})
)

// Classes that hold secrets.
var secretClasses = []string{"SECRET_KEY", "PRIVATE_KEY"}

// knownObjects is what a token is expected to have.
type knownObjects struct {
	services map[string]metadata.ServiceKey // by CKA_ID in hexadecimal
	expected func(serial string) []metadata.ServiceKey
	tlsKey   string          // CKA_ID in hexadecimal; empty if the token is not to have it
	seen     map[string]bool // CKA_IDs of these that were found
}

func (i *installation) knownObjects(ctx context.Context, t configuredToken) (*knownObjects, error) {
	known := &knownObjects{services: map[string]metadata.ServiceKey{}, seen: map[string]bool{}}
	if i.config.TLS.Token == t.Name {
		known.tlsKey = strings.ToLower(i.config.TLS.KeyID)
	}
	rows := map[string][]metadata.ServiceKey{}
	for _, store := range i.config.storesOf(t.Name) {
		keys, err := i.store.ServiceKeys(ctx, store)
		if err != nil {
			return nil, err
		}
		rows[store] = keys
		for _, k := range keys {
			known.services[hex.EncodeToString(k.ID)] = k
		}
	}
	known.expected = func(serial string) (in []metadata.ServiceKey) {
		for store, keys := range rows {
			in = append(in, i.config.rowsIn(keys, store, serial)...)
		}
		return in
	}
	return known, nil
}

// judge says of every object whose it is and what is wrong with it, and of the token
// what it does not have.
func (k *knownObjects) judge(t *inspectedToken) {
	for n := range t.Objects {
		k.judgeObject(&t.Objects[n])
	}
	for _, row := range k.expected(t.Serial) {
		if id := hex.EncodeToString(row.ID); !k.seen[id] {
			t.Problems = append(t.Problems, fmt.Sprintf("the token does not have the %s (CKA_ID %s)", describeServiceKey(row), id))
		}
	}
	if k.tlsKey != "" && !k.seen[k.tlsKey] {
		t.Problems = append(t.Problems, fmt.Sprintf("the token does not have the private key of the API's certificate (CKA_ID %s)", k.tlsKey))
	}
	slices.Sort(t.Problems)
}

func (k *knownObjects) judgeObject(o *inspectedObject) {
	holdsSecret := slices.Contains(secretClasses, o.Class)
	row, service := k.services[o.ID]
	var must mustBe
	switch {
	case service && o.Class == "SECRET_KEY":
		o.Is, must = describeServiceKey(row), serviceKeyMustBe[row.Kind]
		if len(row.Tokens) > 1 || row.State == metadata.ServiceKeyCreating {
			must = must.with(nil)
			for _, name := range carried {
				delete(must, name)
			}
		}
		if k.seen[o.ID] {
			o.Problems = append(o.Problems, "there are several objects with this CKA_ID")
		}
		if want := fmt.Sprintf("%s%s/%s/%d", labelOfOurs, row.Store, row.Kind, row.Generation); o.Label != want {
			o.Problems = append(o.Problems, fmt.Sprintf("its label is %s, want %s", printable(o.Label), want))
		}
		if row.State == metadata.ServiceKeyDestroyed {
			o.Problems = append(o.Problems, "it was destroyed by kmsgate hsm destroy-domain-key, and is here again: what old backups have opens with it; destroy it with the HSM's own tool, and in the HSM's backups")
		}
		k.seen[o.ID] = true
	case k.tlsKey != "" && o.ID == k.tlsKey:
		o.Is, must = "key of the API's certificate", tlsKeyMustBe
		k.seen[o.ID] = k.seen[o.ID] || o.Class == "PRIVATE_KEY"
	case o.Label == defaultTLSLabel:
		o.Is, must = "key of a TLS certificate, not in use by this configuration", tlsKeyMustBe
	case strings.HasPrefix(o.Label, labelOfOurs) && strings.HasSuffix(o.Label, "/transport"):
		o.Is, must = "transport pair of a ceremony that has not come to its end", transportMustBe
	case strings.HasPrefix(o.Label, labelOfOurs):
		o.Is, must = "service key that no key store of this configuration names", unreadable
	case strings.HasPrefix(o.Label, labelOfKMSKeys):
		o.Is, must = "KMS key", kmsKeyMustBe
	}
	if !holdsSecret {
		return
	}
	for _, a := range inspectedAttributes {
		want, asked := must[a.name]
		if is, there := o.Attributes[a.name]; asked && there && is != want {
			o.Problems = append(o.Problems, fmt.Sprintf("%s is %t, want %t", a.name, is, want))
		}
	}
}

func describeServiceKey(k metadata.ServiceKey) string {
	return fmt.Sprintf("%s key, generation %d, of key store %s", k.Kind, k.Generation, k.Store)
}
