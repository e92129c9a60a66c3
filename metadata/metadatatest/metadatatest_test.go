package metadatatest_test

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kmsgate/metadata"
	"kmsgate/metadata/metadatatest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	err := metadatatest.Stop()
	if leaks := goleak.Find(); leaks != nil {
		err = errors.Join(err, leaks)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func TestEveryStoreHasADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	first, second := metadatatest.New(t), metadatatest.New(t)
	insertAccount(t, first)
	if got := accounts(t, second); got != 0 {
		t.Errorf("%d accounts in a new database, want none", got)
	}
}

func TestStoresOnOneDatabaseShareIt(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	first := db.Open(t, nil)
	second := db.Open(t, func(c *metadata.Config) { c.Instance = "second" })
	insertAccount(t, first)
	if got := accounts(t, second); got != 1 {
		t.Errorf("%d accounts seen by the second store, want 1", got)
	}
}

func insertAccount(t *testing.T, s *metadata.Store) {
	t.Helper()
	err := s.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
		return []byte(`{}`), tx.InsertAccount(t.Context(), metadata.Account{ID: "111122223333", CreatedAt: time.Unix(0, 0)})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func accounts(t *testing.T, s *metadata.Store) int {
	t.Helper()
	all, err := s.ListAccounts(t.Context(), "", 10)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
