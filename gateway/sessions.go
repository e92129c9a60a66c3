package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/session"
)

// openSession opens the token of a session, which must be that of the access key. The
// claims are the caller's own; it clears their secret.
func (c *call) openSession(token, accessKeyID string) (*session.Claims, error) {
	claims, err := c.gateway.openSession(c.ctx, c.now, token, accessKeyID)
	switch {
	case errors.Is(err, session.ErrInvalid):
		return nil, kmsapi.UnrecognizedClient()
	case errors.Is(err, session.ErrExpired):
		return nil, kmsapi.ExpiredToken()
	case errors.Is(err, errTooManyReads):
		c.shed = true
		return nil, kmsapi.Throttled()
	}
	return claims, err
}

func (g *Gateway) openSession(ctx context.Context, now time.Time, token, accessKeyID string) (*session.Claims, error) {
	hash := sha256.Sum256([]byte(token))
	if claims := g.sessions.get(hash, accessKeyID, now); claims != nil {
		return claims, nil
	}
	parsed, err := session.Parse(token)
	if err != nil {
		return nil, err
	}
	key, err := g.sessionKeys.find(ctx, now, parsed.KeyID())
	if err != nil {
		return nil, err
	}
	claims, err := parsed.Open(key, accessKeyID, now)
	if err != nil {
		return nil, err
	}
	g.sessions.put(hash, claims, now)
	return claims, nil
}

// sealSession makes the token of a session, of at least so many characters.
func (c *call) sealSession(ctx context.Context, claims *session.Claims, least int) (string, error) {
	key, err := c.gateway.sessionKeys.current(ctx, c.now, c.gateway.defaultStore(c.region))
	if err != nil {
		return "", err
	}
	return session.Seal(key, claims, least)
}

// openedFor is how long an opened token is remembered, its secret too.
const openedFor = time.Minute

// maxOpened bounds the tokens that are remembered. Beyond it the cache starts anew.
const maxOpened = 10_000

// openedSessions remembers opened tokens by their hash. Safe for concurrent use.
type openedSessions struct {
	mu     sync.Mutex
	claims map[[sha256.Size]byte]openedSession // guarded by mu
}

type openedSession struct {
	*session.Claims
	until time.Time
}

// get returns a copy of the claims of a token that is remembered, of that access key
// and not over yet; else nil.
func (s *openedSessions) get(hash [sha256.Size]byte, accessKeyID string, now time.Time) *session.Claims {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.claims[hash]
	if !ok || o.AccessKeyID != accessKeyID || !now.Before(o.ExpiresAt) || !now.Before(o.until) {
		return nil
	}
	return o.Clone()
}

// put remembers a copy of the claims.
func (s *openedSessions) put(hash [sha256.Size]byte, claims *session.Claims, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.claims == nil {
		s.claims = map[[sha256.Size]byte]openedSession{}
	}
	if len(s.claims) >= maxOpened {
		s.sweepLocked(func(openedSession) bool { return true })
	}
	if old, ok := s.claims[hash]; ok {
		clear(old.Secret)
	}
	s.claims[hash] = openedSession{claims.Clone(), now.Add(openedFor)}
}

// sweep forgets what has been remembered long enough.
func (s *openedSessions) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked(func(o openedSession) bool { return !now.Before(o.until) })
}

func (s *openedSessions) sweepLocked(over func(openedSession) bool) {
	for hash, o := range s.claims {
		if over(o) {
			clear(o.Secret)
			delete(s.claims, hash)
		}
	}
}

// sweepSessions forgets opened tokens and deletes old session keys.
func (g *Gateway) sweepSessions(ctx context.Context, now time.Time) {
	g.sessions.sweep(now)
	ctx, cancel := context.WithTimeout(ctx, g.recordTimeout)
	defer cancel()
	if err := g.sessionKeys.sweep(ctx, now); err != nil {
		g.logger.Error("old session keys not deleted yet", "error", err)
	}
}
