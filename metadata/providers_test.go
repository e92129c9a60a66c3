package metadata_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/metadata"
)

const issuer = "oidc.example.com/cluster-1"

func newProvider(owner, url string) metadata.Provider {
	return metadata.Provider{
		Account: owner, URL: url, ClientIDs: []string{"sts.amazonaws.com"}, Thumbprints: []string{"00112233445566778899aabbccddeeff00112233"}, CreatedAt: noon,
	}
}

func (f fixture) insertProvider(t *testing.T, p metadata.Provider) error {
	t.Helper()
	return f.try(t.Context(), func(tx *metadata.Tx) error { return tx.InsertProvider(t.Context(), p) })
}

func provider(t *testing.T, s *metadata.Store) *metadata.Provider {
	t.Helper()
	p, err := s.View().Provider(t.Context(), account, issuer)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProviderChanges(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.database.Open(t, nil)
	want := newProvider(account, issuer)
	for name, c := range map[string]struct {
		p    metadata.Provider
		want error
	}{
		"a provider":                      {want, nil},
		"the same of another account":     {newProvider(stranger, issuer), nil},
		"one of an account there is not":  {newProvider("999999999999", issuer), metadata.ErrNotFound},
		"one without client ids and such": {metadata.Provider{Account: account, URL: "bare.example.com", CreatedAt: noon}, nil},
	} {
		if err := f.insertProvider(t, c.p); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := f.insertProvider(t, want); !errors.Is(err, metadata.ErrExists) {
		t.Errorf("the same again: %v, want ErrExists", err)
	}
	if diff := cmp.Diff(&want, provider(t, f.Store)); diff != "" {
		t.Errorf("provider (-want +got):\n%s", diff)
	}
	provider(t, other) // cached

	f.change(t, func(tx *metadata.Tx) error {
		return tx.SetClientIDs(t.Context(), account, issuer, func(ids []string) ([]string, error) { return append(ids, "more"), nil })
	})
	f.change(t, func(tx *metadata.Tx) error { return tx.SetJWKS(t.Context(), account, issuer, `{"keys":[]}`) })
	want.ClientIDs, want.JWKS = []string{"sts.amazonaws.com", "more"}, `{"keys":[]}`
	if diff := cmp.Diff(&want, provider(t, f.Store)); diff != "" {
		t.Errorf("after the changes (-want +got):\n%s", diff)
	}
	eventually(t, "the changes on the other store", func() bool { return cmp.Equal(&want, provider(t, other)) })
	problem := errors.New("no")
	err := f.try(t.Context(), func(tx *metadata.Tx) error {
		return tx.SetClientIDs(t.Context(), account, issuer, func([]string) ([]string, error) { return nil, problem })
	})
	if !errors.Is(err, problem) || len(provider(t, f.Store).ClientIDs) != 2 {
		t.Errorf("SetClientIDs whose edit fails: %v", err)
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.SetJWKS(t.Context(), account, issuer, "") })
	if got := provider(t, f.Store).JWKS; got != "" {
		t.Errorf("JWKS %q is left", got)
	}

	listed, err := f.ListProviders(t.Context(), account)
	if err != nil || len(listed) != 2 || listed[0].URL != "bare.example.com" || listed[1].URL != issuer {
		t.Errorf("ListProviders = %+v, %v", listed, err)
	}
	remove := func(tx *metadata.Tx) error { return tx.DeleteProvider(t.Context(), account, issuer) }
	f.change(t, remove)
	for name, change := range map[string]func(tx *metadata.Tx) error{
		"DeleteProvider": remove,
		"SetJWKS":        func(tx *metadata.Tx) error { return tx.SetJWKS(t.Context(), account, issuer, "{}") },
		"SetClientIDs": func(tx *metadata.Tx) error {
			return tx.SetClientIDs(t.Context(), account, issuer, func(ids []string) ([]string, error) { return ids, nil })
		},
	} {
		if err := f.try(t.Context(), change); !errors.Is(err, metadata.ErrNotFound) {
			t.Errorf("%s after it was deleted: %v, want ErrNotFound", name, err)
		}
	}
	if _, err := f.View().Provider(t.Context(), account, issuer); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("after it was deleted: %v, want ErrNotFound", err)
	}
	if _, err := f.View().Provider(t.Context(), stranger, issuer); err != nil {
		t.Errorf("the other account's: %v", err)
	}
}

func TestProvidersAreLimited(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	add := func(from, to int) error {
		return f.try(t.Context(), func(tx *metadata.Tx) error {
			for i := from; i < to; i++ {
				if err := tx.InsertProvider(t.Context(), newProvider(account, fmt.Sprintf("%d.example.com", i))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := add(0, metadata.MaxProviders); err != nil {
		t.Fatal(err)
	}
	limit, ok := errors.AsType[*metadata.LimitError](add(metadata.MaxProviders, metadata.MaxProviders+1))
	if !ok || limit.Limit != metadata.MaxProviders {
		t.Errorf("one more: %v, want LimitError", limit)
	}
}
