package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

func TestFillsTakeTurnsByAccount(t *testing.T) {
	var tn turn
	if err := tn.take(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	accounts := map[*waiter]string{}
	var waiting []*waiter
	for _, account := range strings.Split("aaaaaabbc", "") {
		w := tn.enter(account)
		accounts[w], waiting = account, append(waiting, w)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := tn.take(gone, "c"); !errors.Is(err, hsm.ErrBusy) {
		t.Errorf("take of a caller who leaves = %v, want %v", err, hsm.ErrBusy)
	}
	var order []string
	for range waiting {
		tn.give()
		for _, w := range waiting {
			select {
			case <-w.granted:
				order = append(order, accounts[w])
			default:
			}
		}
	}
	if want := strings.Split("abcabaaaa", ""); !slices.Equal(order, want) {
		t.Errorf("order = %v, want %v", order, want)
	}
	tn.give()
	if err := tn.take(t.Context(), "b"); err != nil {
		t.Errorf("take of a turn that nobody has = %v", err)
	}
}

func TestFillsWaitByTheAccountOfTheirKey(t *testing.T) {
	e, shim := openWithShim(t, func(c *Config) { c.OwnerSessions, c.MaxHandles = 1, 100 })
	var keys []*hsm.Key
	for i, account := range []string{"111111111111", "111111111111", "111111111111", "222222222222"} {
		k := newKey(fmt.Sprint(i))
		k.Account = account
		made, err := e.Generate(t.Context(), client, k)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, &made)
	}
	shim.Hang(softhsm.UnwrapKey, true)
	results := make(chan error, len(keys))
	for _, k := range keys {
		go func() {
			_, err := e.Encrypt(t.Context(), client, k, []byte("x"), nil)
			results <- err
		}()
	}
	o := e.handles.owners[0]
	eventually(t, "three keys wait to be unwrapped, in lines of their accounts", func() bool {
		o.turn.mu.Lock()
		defer o.turn.mu.Unlock()
		return o.turn.queue.length == 3 && o.turn.queue.waitingFor("111111111111")+o.turn.queue.waitingFor("222222222222") == 3
	})
	shim.Hang(softhsm.UnwrapKey, false)
	for range keys {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if o.fills != 0 || len(o.filling) != 0 {
		t.Errorf("%d fills, of %d accounts, when all is done", o.fills, len(o.filling))
	}
}
