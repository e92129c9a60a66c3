package pkcs11

import (
	"context"
	"encoding/json"
	"testing"

	"kmsgate/hsm/hsmtest"
	"kmsgate/softhsm"
)

func TestNSSX(t *testing.T) {
	tok, err := softhsm.ProvisionNSS(t.TempDir(), "nss")
	must(t, err)
	e, err := Open(t.Context(), Config{Module: tok.Module, InitArguments: tok.InitArguments, Label: tok.Label, PIN: PINFile(tok.PINFile), MaxHandles: 8, OwnerSessions: 2})
	must(t, err)
	defer e.Close()
	b, _ := json.Marshal(e.Profile().DataKeyPairs)
	t.Logf("%s", b)
	for _, store := range []string{testStore, otherStore} {
		if _, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(store, 1)); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range e.Profile().Keys {
		if f.Residency != Nowhere && sameFamily[f.Spec] == "" {
			k := makeKey(t, e, f.Spec, f.Usage)
			t.Log(k.Spec, k.Usage, k.Residency)
			for _, a := range e.Profile().Algorithms {
				if a.Spec == k.Spec && usageOf(a.Algorithm) == k.Usage && a.Private != Nowhere {
					uses[k.Usage](t, e, k, a.Algorithm)
				}
			}
		}
	}
	hsmtest.Exercise(exerciseT{t}, func() hsmtest.Fixture {
		return hsmtest.Fixture{
			Token: e, Store: testStore, OtherStore: otherStore, Handles: 8,
			Rewrap: e.Rewrap,
			AddGeneration: func(ctx context.Context) error {
				_, err := e.CreateServiceKeys(ctx, serviceKeyRows(testStore, 2))
				return err
			},
			Close: func() {},
		}
	})
	t.Logf("%+v", e.Stats())
	p, err := e.Probe(t.Context())
	must(t, err)
	p.Mechanisms = nil
	b, _ = json.MarshalIndent(p, "", " ")
	t.Logf("%s", b)
}
