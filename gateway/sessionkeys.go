package gateway

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"kmsgate/gateway/session"
	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

const (
	// sessionKeyFor is how long a session key seals: after that another is made.
	sessionKeyFor = 24 * time.Hour
	// longestSession is that of GetSessionToken.
	longestSession = 36 * time.Hour
	// sessionKeyMargin is how much longer a key is kept than it can be needed.
	sessionKeyMargin = time.Hour
	// sessionKeyAttempts is how often a key is looked for and made: other instances
	// may be faster.
	sessionKeyAttempts = 5
	// sessionKeyReads bounds how often a second tokens that name an unknown key have
	// Postgres asked. A key that another instance made is found at once all the same.
	sessionKeyReads = 10
)

// errTooManyReads: tokens name more unknown keys than Postgres is asked for.
var errTooManyReads = errors.New("too many session tokens name unknown keys")

// sessionKeys are the keys that tokens of sessions are sealed under, opened: the
// token that sealed them is asked once a process. Safe for concurrent use.
type sessionKeys struct {
	store  *metadata.Store
	tokens map[string]hsm.Token
	reads  *rate.Limiter

	reading sync.Mutex // held while keys are read, opened and made

	mu     sync.RWMutex
	opened map[uint32]openedKey // guarded by mu
	newest uint32               // guarded by mu; id of the newest that is opened, 0 for none
}

type openedKey struct {
	*session.Key
	createdAt, expiresAt time.Time
}

func newSessionKeys(store *metadata.Store, tokens map[string]hsm.Token) *sessionKeys {
	return &sessionKeys{
		store: store, tokens: tokens, opened: map[uint32]openedKey{},
		reads: rate.NewLimiter(sessionKeyReads, sessionKeyReads),
	}
}

// find returns a key by its id. session.ErrInvalid if there is none,
// errTooManyReads if too many were asked for that there are not.
func (s *sessionKeys) find(ctx context.Context, now time.Time, id uint32) (*session.Key, error) {
	if k, ok := s.get(id); ok {
		return k.Key, nil
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	if k, ok := s.get(id); ok {
		return k.Key, nil
	}
	if !s.reads.AllowN(now, 1) {
		return nil, errTooManyReads
	}
	_, failed, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	if k, ok := s.get(id); ok {
		return k.Key, nil
	}
	if err := failed[id]; err != nil {
		return nil, err
	}
	return nil, session.ErrInvalid
}

func (s *sessionKeys) get(id uint32) (openedKey, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	k, ok := s.opened[id]
	return k, ok
}

// current returns the key that sessions are sealed under now, and makes one in the
// key store given if there is none young enough.
func (s *sessionKeys) current(ctx context.Context, now time.Time, keyStore string) (*session.Key, error) {
	if k := s.young(now); k != nil {
		return k, nil
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	for range sessionKeyAttempts {
		last, _, err := s.read(ctx)
		if err != nil {
			return nil, err
		}
		if k := s.young(now); k != nil {
			return k, nil
		}
		// Of two instances that make one, the other's is found the next time.
		if err := s.create(ctx, now, keyStore, last+1); err != nil && !errors.Is(err, metadata.ErrExists) {
			return nil, err
		}
	}
	return nil, errors.New("other instances kept making session keys that do not open here")
}

// young is the newest key if it still seals.
func (s *sessionKeys) young(now time.Time) *session.Key {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k, ok := s.opened[s.newest]; ok && now.Before(k.createdAt.Add(sessionKeyFor)) {
		return k.Key
	}
	return nil
}

// read opens the keys that are new in Postgres, and returns the highest id that there
// is and the errors of those that did not open.
func (s *sessionKeys) read(ctx context.Context) (last uint32, failed map[uint32]error, err error) {
	rows, err := s.store.SessionKeys(ctx)
	if err != nil {
		return 0, nil, err
	}
	failed = map[uint32]error{}
	for _, row := range rows {
		id := uint32(row.ID)
		last = max(last, id)
		if _, ok := s.get(id); ok {
			continue
		}
		if err := s.open(ctx, row); err != nil {
			failed[id] = fmt.Errorf("open session key %d: %w", id, err)
		}
	}
	return last, failed, nil
}

// open opens a key in the token that sealed it. One of a store that is not here stays
// closed: its sessions are good elsewhere.
func (s *sessionKeys) open(ctx context.Context, row metadata.SessionKey) error {
	token, ok := s.tokens[row.Store]
	if !ok {
		return session.ErrInvalid
	}
	id := uint32(row.ID)
	secret, err := token.Open(ctx, hsm.Call{}, row.Sealed, sessionKeyAAD(id))
	if errors.Is(err, hsm.ErrInvalidCiphertext) {
		return errSessionKey // not the caller's ciphertext
	}
	if err != nil {
		return err
	}
	defer clear(secret)
	key, err := session.NewKey(id, secret)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened[id] = openedKey{key, row.CreatedAt, row.ExpiresAt}
	s.newest = max(s.newest, id)
	return nil
}

// create makes a key. metadata.ErrExists if another instance was faster.
func (s *sessionKeys) create(ctx context.Context, now time.Time, keyStore string, id uint32) error {
	token := s.tokens[keyStore]
	secret, err := token.Random(ctx, hsm.Call{}, session.KeyBytes)
	if err != nil {
		return fmt.Errorf("make a session key: %w", err)
	}
	defer clear(secret)
	sealed, err := token.Seal(ctx, hsm.Call{}, keyStore, secret, sessionKeyAAD(id))
	if err != nil {
		return fmt.Errorf("seal session key %d: %w", id, err)
	}
	row := metadata.SessionKey{
		ID: int32(id), Store: keyStore, Sealed: sealed, CreatedAt: now,
		ExpiresAt: now.Add(sessionKeyFor + longestSession + sessionKeyMargin),
	}
	return s.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		details := audit.Members{audit.Int("id", int64(id)), audit.String("keyStore", keyStore)}
		return sessionKeyEvent("CreateSessionKey", now, details), tx.InsertSessionKey(ctx, row)
	})
}

// ResealSessionKey opens a session key and seals it again under its store's newest
// sealing key. hsm.ErrInvalidCiphertext if it does not open.
func ResealSessionKey(ctx context.Context, token hsm.Token, row metadata.SessionKey) ([]byte, error) {
	secret, err := token.Open(ctx, hsm.Call{}, row.Sealed, sessionKeyAAD(uint32(row.ID)))
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	return token.Seal(ctx, hsm.Call{}, row.Store, secret, sessionKeyAAD(uint32(row.ID)))
}

// sessionKeyAAD binds a sealed session key to its id.
func sessionKeyAAD(id uint32) []byte {
	return []byte("kmsgate session key\x00" + strconv.FormatUint(uint64(id), 10))
}

// sessionKeyEvent is the record of what the service does by itself with session keys.
func sessionKeyEvent(name string, now time.Time, details audit.Members) []byte {
	event := audit.Event{
		Identity: audit.Internal(""), Time: now, Source: serviceSTS.eventSource(), Name: name, SourceIP: "AWS Internal",
		EventID: uuid.NewString(), Type: audit.ServiceEvent, ServiceEventDetails: details,
	}
	return event.AppendJSON(nil)
}

// sweep forgets the keys that no session can be alive of, and deletes them.
func (s *sessionKeys) sweep(ctx context.Context, now time.Time) error {
	if s.forget(now) == 0 {
		return nil
	}
	return s.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		deleted, err := tx.DeleteSessionKeys(ctx, now)
		return sessionKeyEvent("DeleteSessionKeys", now, audit.Members{audit.Int("count", deleted)}), err
	})
}

func (s *sessionKeys) forget(now time.Time) (forgotten int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, k := range s.opened {
		if k.expiresAt.Before(now) && id != s.newest {
			delete(s.opened, id)
			forgotten++
		}
	}
	return forgotten
}
