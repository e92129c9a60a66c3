package pkcs11

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

// ceremony gives engines the same service keys.
func ceremony(t *testing.T, rows []hsm.ServiceKey, engines ...*Engine) []hsm.ServiceKey {
	t.Helper()
	var pairs []TransportPair
	for _, e := range engines {
		pair, err := e.TransportPair(t.Context(), rows[0].Store)
		must(t, err)
		pairs = append(pairs, pair)
	}
	made, parcels, err := engines[0].PackServiceKeys(t.Context(), rows, pairs)
	must(t, err)
	for i, e := range engines {
		must(t, e.AdoptServiceKeys(t.Context(), made, pairs[i], parcels[i]))
		must(t, e.DestroyTransportPair(t.Context(), rows[0].Store))
	}
	return made
}

func TestCeremonyGivesTwoTokensTheSameServiceKeys(t *testing.T) {
	engines := openTokens(t, "one", "two")
	one, two := engines[0], engines[1]
	rows := ceremony(t, serviceKeyRows(testStore, 1), one, two)
	for _, way := range [][2]*Engine{{one, two}, {two, one}} {
		k := generate(t, way[0], "k")
		c, err := way[0].Encrypt(t.Context(), client, k, []byte("hello"), nil)
		must(t, err)
		p, err := way[1].Decrypt(t.Context(), client, k, c, nil)
		must(t, err)
		same(t, p, []byte("hello"))
		sealed, err := way[0].Seal(t.Context(), client, testStore, []byte("secret"), nil)
		must(t, err)
		p, err = way[1].Open(t.Context(), client, sealed, nil)
		must(t, err)
		same(t, p, []byte("secret"))
		must(t, way[1].Check(t.Context()))
	}
	for _, e := range engines {
		s := ownSession(t, e)
		left, err := e.module.findAll(s.handle, []*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, true)})
		must(t, err)
		var ours []handle
		for _, object := range left {
			if label, err := s.read(object, pkcs11.CKA_LABEL); err == nil && len(label) > 0 {
				ours = append(ours, object)
			}
		}
		if len(ours) != len(hsm.ServiceKeyKinds) {
			t.Errorf("token %s has %d objects with labels, want its three service keys", e.cfg.Label, len(ours))
		}
		for _, object := range ours {
			for attr, want := range map[uint]byte{
				pkcs11.CKA_TOKEN: 1, pkcs11.CKA_PRIVATE: 1, pkcs11.CKA_SENSITIVE: 1, pkcs11.CKA_EXTRACTABLE: 0, pkcs11.CKA_DERIVE: 0,
			} {
				if got, err := s.readUpTo(object, attr, 1); err != nil || len(got) != 1 || got[0] != want {
					t.Errorf("token %s: attribute 0x%X is %v, %v, want %d", e.cfg.Label, attr, got, err, want)
				}
			}
		}
		wantLikeMade(t, e, rows)
	}
}

// wantLikeMade wants carried service keys to have the attributes of those that are
// made in the token, the unwrap template among them. SoftHSM alone does not say how
// long a key is that it has unwrapped.
func wantLikeMade(t *testing.T, e *Engine, carried []hsm.ServiceKey) {
	t.Helper()
	made, err := e.CreateServiceKeys(t.Context(), serviceKeyRows("made-here", 1))
	must(t, err)
	s := ownSession(t, e)
	for i := range made {
		a, err := s.locate(&carried[i])
		must(t, err)
		b, err := s.locate(&made[i])
		must(t, err)
		for _, attr := range []uint{
			pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE,
			pkcs11.CKA_KEY_TYPE, pkcs11.CKA_ALLOWED_MECHANISMS, pkcs11.CKA_WRAP_WITH_TRUSTED, pkcs11.CKA_MODIFIABLE, pkcs11.CKA_COPYABLE,
		} {
			got, err := s.read(a, attr)
			must(t, err)
			want, err := s.read(b, attr)
			must(t, err)
			if !slices.Equal(got, want) {
				t.Errorf("%s: attribute 0x%X is %x, want %x", describe(&carried[i]), attr, got, want)
			}
		}
	}
	// What the unwrap template demands cannot be left out.
	service, _ := e.service.Load().find(testStore, hsm.DomainKey, carried[0].Generation)
	blob, _, _ := parseDomainCheck(service.row.CheckValue)
	staying := keyTypeAES
	staying.may |= mayStay
	if _, err := s.unwrap(service, blob, staying); err == nil {
		t.Error("a carried domain key unwraps to token objects, against its unwrap template")
	}
}

func TestCeremonyRefusesWhatWasNotConfirmed(t *testing.T) {
	engines := openTokens(t, "one", "two")
	one, two := engines[0], engines[1]
	mine, err := one.TransportPair(t.Context(), testStore)
	must(t, err)
	again, err := one.TransportPair(t.Context(), testStore)
	must(t, err)
	same(t, again.PublicKey, mine.PublicKey)
	theirs, err := two.TransportPair(t.Context(), testStore)
	must(t, err)
	rows, parcels, err := one.PackServiceKeys(t.Context(), serviceKeyRows(testStore, 1), []TransportPair{mine, theirs})
	must(t, err)
	for name, c := range map[string]struct {
		pair    TransportPair
		parcels [][]byte
		want    error
	}{
		"another pair":        {mine, parcels[1], hsm.ErrWrongMaterial},
		"the other's parcels": {theirs, parcels[0], hsm.ErrInvalidCiphertext},
		"swapped":             {theirs, [][]byte{parcels[1][2], parcels[1][1], parcels[1][0]}, hsm.ErrWrongMaterial},
		"a parcel short":      {theirs, parcels[1][:2], hsm.ErrUnsupported},
	} {
		err := two.AdoptServiceKeys(t.Context(), rows, c.pair, c.parcels)
		if !errors.Is(err, c.want) {
			t.Errorf("AdoptServiceKeys with %s = %v, want %v", name, err, c.want)
		}
		if _, ok := two.service.Load().newest(testStore); ok {
			t.Errorf("after %s keys are in service", name)
		}
		must(t, two.DestroyUnfinished(t.Context(), unmade(rows)))
	}
	must(t, two.AdoptServiceKeys(t.Context(), rows, theirs, parcels[1]))
	must(t, two.AdoptServiceKeys(t.Context(), rows, theirs, parcels[1])) // they are there
	for name, rows := range map[string][]hsm.ServiceKey{"in service": unmade(rows), "made": rows} {
		if err := two.DestroyUnfinished(t.Context(), rows); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("DestroyUnfinished of keys that are %s = %v, want %v", name, err, hsm.ErrUnsupported)
		}
	}
	must(t, two.Check(t.Context()))
}

// unmade are rows without their check values.
func unmade(rows []hsm.ServiceKey) []hsm.ServiceKey {
	rows = slices.Clone(rows)
	for i := range rows {
		rows[i].CheckValue = nil
	}
	return rows
}

// TestCeremonyOfTwoKindsOfTokens: SoftHSM and NSS have one way to wrap in common.
func TestCeremonyOfTwoKindsOfTokens(t *testing.T) {
	soft, nss := configFor(newToken(t)), newNSSToken(t)
	soft.WrapMechanisms, nss.WrapMechanisms = []uint{mechAESKeyWrap}, []uint{mechAESKeyWrap}
	var engines []*Engine
	for _, cfg := range []Config{soft, nss} {
		e, err := Open(t.Context(), cfg)
		must(t, err)
		t.Cleanup(func() { must(t, e.Close()) })
		engines = append(engines, e)
	}
	for n, order := range [][]*Engine{engines, {engines[1], engines[0]}} {
		ceremony(t, serviceKeyRows(testStore, int32(n+1)), order...)
		k := generate(t, order[0], fmt.Sprint(n))
		encryptWorks(t, order[1], k)
	}
}

// openTokens opens tokens of one SoftHSM, without service keys.
func openTokens(t *testing.T, labels ...string) (engines []*Engine) {
	t.Helper()
	dir := t.TempDir()
	var configs []Config
	for _, label := range labels { // all, before the module is in use
		tok, err := softhsm.Provision(dir, label)
		must(t, err)
		configs = append(configs, configFor(tok))
	}
	m := NewModule(configs[0].Module, "")
	for _, cfg := range configs {
		e, err := m.Open(t.Context(), cfg)
		must(t, err)
		t.Cleanup(func() { must(t, e.Close()) })
		engines = append(engines, e)
	}
	return engines
}
