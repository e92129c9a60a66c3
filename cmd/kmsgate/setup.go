package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"time"

	"github.com/google/uuid"

	"kmsgate/gateway/identity"
	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// adminSource is the eventSource of what operators do with this program; it is
// no service of AWS.
const adminSource = "kmsgate.local"

// adminEvent is the audit record of something an operator did on the command line.
func adminEvent(command, name, account, region string, now time.Time, parameters audit.Members) []byte {
	operator := ""
	if u, err := user.Current(); err == nil {
		operator = u.Username
	}
	identity := audit.Internal(account)
	identity.PrincipalID, identity.InvokedBy = operator, "kmsgate "+command
	event := audit.Event{
		Identity: identity, Time: now, Source: adminSource, Name: name, Region: region, SourceIP: "127.0.0.1",
		RequestParameters: parameters, EventID: uuid.NewString(), Type: audit.ServiceEvent, RecipientAccount: account,
	}
	return event.AppendJSON(nil)
}

// record makes the audit record of something that changes nothing durable.
func (i *installation) record(ctx context.Context, event []byte) error {
	return i.store.Record(ctx, i.store.View(), metadata.Record{Event: event})
}

// ensureRegions makes the configured regions, their default stores and the
// stores' service keys, whatever of them is missing. Run again after it was cut
// off, it goes on where it was; of several at once, one works at a time.
func (i *installation) ensureRegions(ctx context.Context, command string) error {
	return i.store.Exclusively(ctx, "service keys", func(ctx context.Context) error {
		return i.ensureRegionsAlone(ctx, command)
	})
}

func (i *installation) ensureRegionsAlone(ctx context.Context, command string) error {
	for _, r := range i.config.Regions {
		if err := i.ensureStore(ctx, command, r); err != nil {
			return err
		}
		if err := i.ensureServiceKeys(ctx, command, r); err != nil {
			return fmt.Errorf("service keys of key store %s: %w", r.Store, err)
		}
	}
	return nil
}

func (i *installation) ensureStore(ctx context.Context, command string, r regionConfig) error {
	stores, err := i.store.KeyStores(ctx, r.Name, "", 1000)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(stores, func(s metadata.KeyStore) bool { return s.ID == r.Store }) {
		return nil
	}
	now := time.Now()
	err = i.store.Change(ctx, i.store.View(), func(tx *metadata.Tx) ([]byte, error) {
		if err := tx.EnsureRegion(ctx, metadata.Region{Name: r.Name, CreatedAt: now}); err != nil {
			return nil, err
		}
		err := tx.EnsureKeyStore(ctx, metadata.KeyStore{
			ID: r.Store, Region: r.Name, Type: metadata.DefaultKeyStore, State: metadata.Connected, CreatedAt: now,
		})
		return adminEvent(command, "CreateKeyStore", "", r.Name, now, audit.Members{audit.String("keyStore", r.Store)}), err
	})
	if errors.Is(err, metadata.ErrExists) {
		return fmt.Errorf("region %s has another default key store already; use its id as store", r.Name)
	}
	return err
}

// ensureServiceKeys makes the first generation of a store's service keys. Each
// is committed as being made, with its CKA_ID, before its object is made in the
// token, so that a run that is cut off leaves nothing that cannot be found.
func (i *installation) ensureServiceKeys(ctx context.Context, command string, r regionConfig) error {
	rows, err := i.store.ServiceKeys(ctx, r.Store)
	if err != nil {
		return err
	}
	if len(r.Tokens) > 0 {
		return i.checkHolders(ctx, r, rows)
	}
	engine := i.byStore[r.Store]
	for _, kind := range hsm.ServiceKeyKinds {
		n := slices.IndexFunc(rows, func(k metadata.ServiceKey) bool { return k.Kind == kind })
		if n >= 0 && rows[n].State != metadata.ServiceKeyCreating {
			continue
		}
		key := hsm.ServiceKey{Store: r.Store, Kind: kind, Generation: 1, ID: newCKAID()}
		if n >= 0 {
			key = rows[n].ServiceKey
		} else if err := i.announceServiceKey(ctx, command, r, key); err != nil {
			return err
		}
		if err := i.makeServiceKey(ctx, command, r, engine, key); err != nil {
			return err
		}
	}
	return nil
}

func newCKAID() []byte {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails (crypto/rand, since Go 1.24)
	return id
}

func (i *installation) announceServiceKey(ctx context.Context, command string, r regionConfig, key hsm.ServiceKey) error {
	now := time.Now()
	return i.store.Change(ctx, i.store.View(), func(tx *metadata.Tx) ([]byte, error) {
		return serviceKeyEvent(command, "CreateServiceKey", r, key, now), tx.InsertServiceKey(ctx, key, now)
	})
}

func (i *installation) makeServiceKey(ctx context.Context, command string, r regionConfig, engine tokenEngine, key hsm.ServiceKey) error {
	made, err := engine.CreateServiceKeys(ctx, []hsm.ServiceKey{key})
	if err != nil {
		return err
	}
	now := time.Now()
	return i.store.Change(ctx, i.store.View(), func(tx *metadata.Tx) ([]byte, error) {
		err := tx.ActivateServiceKey(ctx, made[0], []string{engine.Stats().Serial})
		return serviceKeyEvent(command, "ActivateServiceKey", r, key, now), err
	})
}

func serviceKeyEvent(command, name string, r regionConfig, key hsm.ServiceKey, now time.Time) []byte {
	return adminEvent(command, name, "", r.Name, now, audit.Members{
		audit.String("keyStore", key.Store), audit.String("kind", string(key.Kind)), audit.Int("generation", int64(key.Generation)),
		audit.String("ckaId", fmt.Sprintf("%x", key.ID)),
	})
}

// createAccount makes an account with its root's first access key, whose
// secret is returned for the operator to see once and the caller to clear.
func (i *installation) createAccount(ctx context.Context, command, account string) (metadata.AccessKey, []byte, error) {
	now := time.Now()
	return i.addRootKey(ctx, account, now, func(tx *metadata.Tx, key metadata.AccessKey) ([]byte, error) {
		err := tx.InsertAccount(ctx, metadata.Account{ID: account, CreatedAt: now})
		if errors.Is(err, metadata.ErrExists) {
			return nil, fmt.Errorf("account %s exists already; a new access key of its root: kmsgate account root-key", account)
		}
		return adminEvent(command, "CreateAccount", account, "", now, audit.Members{audit.String("accessKeyId", key.ID)}), err
	})
}

// createRootKey makes another access key for the root of an account.
func (i *installation) createRootKey(ctx context.Context, command, account string) (metadata.AccessKey, []byte, error) {
	known, err := i.store.AccountsExist(ctx, []string{account})
	if err != nil {
		return metadata.AccessKey{}, nil, err
	}
	if !known {
		return metadata.AccessKey{}, nil, fmt.Errorf("there is no account %q; kmsgate account list shows them", account)
	}
	now := time.Now()
	return i.addRootKey(ctx, account, now, func(_ *metadata.Tx, key metadata.AccessKey) ([]byte, error) {
		return adminEvent(command, "CreateRootAccessKey", account, "", now, audit.Members{audit.String("accessKeyId", key.ID)}), nil
	})
}

func (i *installation) addRootKey(ctx context.Context, account string, now time.Time, with func(*metadata.Tx, metadata.AccessKey) ([]byte, error)) (metadata.AccessKey, []byte, error) {
	store := i.config.Regions[0].Store
	key, secret, err := identity.NewRootAccessKey(ctx, i.byStore[store], store, account, now)
	if err != nil {
		return metadata.AccessKey{}, nil, err
	}
	err = i.store.Change(ctx, i.store.View(), func(tx *metadata.Tx) ([]byte, error) {
		event, err := with(tx, key)
		if err != nil {
			return nil, err
		}
		return event, tx.InsertAccessKey(ctx, key)
	})
	if err != nil {
		clear(secret)
		return metadata.AccessKey{}, nil, err
	}
	return key, secret, nil
}
