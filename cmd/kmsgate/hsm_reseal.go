package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"kmsgate/gateway"
	"kmsgate/gateway/identity"
	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// sealer seals the secrets of access keys and the session keys of a key store anew,
// under its active sealing key.
type sealer struct {
	*installation
	out    io.Writer // faults
	region regionConfig
	sealed int
	faults int
}

// resealAll seals all that is under an older generation anew. What does not open stays
// as it is.
func (s *sealer) resealAll(ctx context.Context) error {
	rows, err := s.store.ServiceKeys(ctx, s.region.Store)
	if err != nil {
		return err
	}
	for _, k := range rows {
		if k.Kind != hsm.SealingKey || k.State != metadata.ServiceKeyRetired {
			continue
		}
		if err := s.accessKeys(ctx, k.Generation); err != nil {
			return err
		}
		if err := s.sessionKeys(ctx, k.Generation); err != nil {
			return err
		}
	}
	if s.faults > 0 {
		return fmt.Errorf("%s not open: the rows were changed, or the token that has the sealing key is not configured; then run the command again",
			counted(s.faults, "sealed secret does", "sealed secrets do"))
	}
	return nil
}

// accessKeys seals the secrets of access keys that are under a generation.
func (s *sealer) accessKeys(ctx context.Context, generation int32) error {
	for after := ""; ; {
		keys, err := s.store.AccessKeysSealed(ctx, s.region.Store, generation, after, boundBatch)
		if err != nil || len(keys) == 0 {
			return err
		}
		after = keys[len(keys)-1].ID
		for _, k := range keys {
			sealed, err := identity.Reseal(ctx, s.byStore[s.region.Store], s.region.Store, &k)
			if errors.Is(err, identity.ErrSecret) {
				s.fault("access key "+k.ID, err)
				continue
			}
			if err != nil {
				return err
			}
			err = s.commit(ctx, "accessKeyId", k.ID, func(tx *metadata.Tx) error { return tx.ResealAccessKey(ctx, k, sealed) })
			if err != nil {
				return err
			}
		}
	}
}

// sessionKeys seals the session keys that are under a generation.
func (s *sealer) sessionKeys(ctx context.Context, generation int32) error {
	rows, err := s.store.SessionKeys(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if store, under, ok := hsm.SealedUnder(row.Sealed); !ok || store != s.region.Store || under != generation {
			continue
		}
		sealed, err := gateway.ResealSessionKey(ctx, s.byStore[s.region.Store], row)
		if errors.Is(err, hsm.ErrInvalidCiphertext) {
			s.fault(fmt.Sprintf("session key %d", row.ID), err)
			continue
		}
		if err != nil {
			return err
		}
		err = s.commit(ctx, "sessionKey", fmt.Sprint(row.ID), func(tx *metadata.Tx) error { return tx.ResealSessionKey(ctx, row, sealed) })
		if err != nil {
			return err
		}
	}
	return nil
}

// commit stores one sealed value with its record. One that is gone or was sealed by
// somebody else since it was read is left alone.
func (s *sealer) commit(ctx context.Context, kind, id string, store func(*metadata.Tx) error) error {
	now := time.Now()
	err := s.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		return adminEvent(rotateCommand, "ResealSecret", "", s.region.Name, now, audit.Members{
			audit.String("keyStore", s.region.Store), audit.String(kind, id),
		}), store(tx)
	})
	if errors.Is(err, metadata.ErrNotFound) {
		return nil
	}
	if err == nil {
		s.sealed++
	}
	return err
}

func (s *sealer) fault(what string, err error) {
	if s.faults++; s.faults <= maxFaults {
		fmt.Fprintf(s.out, "%s: %v\n", what, err)
	}
}
