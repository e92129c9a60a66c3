package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// A call is one request on its way through the pipeline and all that a handler
// may use. One goroutine at a time.
type call struct {
	gateway *Gateway
	// ctx is the request's: it has the deadline and is not cancelled when the
	// client goes away, so that what was accepted is finished and recorded.
	ctx       context.Context
	requestID string
	now       time.Time  // of the request's arrival; nothing asks for the time later
	service   service    // whose protocol the request speaks
	op        *operation // nil until it is known
	// foreign is the answer to a request of no protocol that is spoken here.
	foreign *verbatim
	referer string // header of the request, which may say anything
	region  string // of the verified signature scope
	signer  signer // whose credentials signed the request; zero if nobody did
	caller  identity.Caller
	// identity is the caller as the record has it.
	identity audit.UserIdentity
	// claims are what the token of a web identity says, as condition keys in lower
	// case; nil for other callers.
	claims map[string][]string
	// roleless: a container's token claims to be of one that no role is associated
	// with; the request's role is one of the same issuer.
	roleless bool
	query    string        // of a request that is in its query string; empty for others
	form     awsquery.Form // of a Query request
	// body is the request's, once it is read; cleared when the call ends.
	body []byte
	// room is the bytes that the body takes of what all bodies may take.
	room int64
	// in is the request once it is decoded.
	in any
	// view is what the call has read of Postgres, with the versions it saw.
	view      *metadata.View
	resources []resource

	// made is the ARN of the key that the call creates.
	made string
	// entry is the key that the call creates, and pair the data key pair that it
	// has had made. They take long and rest on nothing that was read: a call that
	// is decided anew goes on with them. The pair is cleared when the call ends.
	entry *metadata.KeyEntry
	pair  hsm.DataKeyPair
	// parameters are import parameters that the call has had made, and parametersToken
	// the token that goes with them: they take long, too.
	parameters      *metadata.ImportParameters
	parametersToken kmsapi.Blob
	// drawn: the caller was charged for the call's keys.
	drawn bool
	// stop releases the time that the call was given beyond the usual; nil if none.
	stop context.CancelFunc
	// extend moves the time by which the answer must be written.
	extend func(time.Time) error
	// place is the limit that the call counts against now.
	place chan struct{}
	// slow are the places of slow requests, if the call has one of them.
	slow *slowPlaces

	// unread is why a condition key could not be worked out; nil if all could.
	unread error

	event audit.Event
	uses  []ownedUse
	// recorded: the record is durable; a change commits it together with itself.
	recorded bool
	// refusal is why policy refused the call; nil if it did not.
	refusal *metadata.Refusal
	// detail says more of a refusal than the caller hears; for the log.
	detail string
	// shed: refused for load or as noise; counted instead of recorded.
	shed bool
}

// keys are the looked-up keys in the order of the row's targets.
func (c *call) key(i int) *metadata.KeyEntry {
	for _, r := range c.resources {
		if !holdsKey[r.target.kind] {
			continue
		}
		if i == 0 {
			return r.key
		}
		i--
	}
	return nil
}

// enter takes a place within a limit, leaving the one before; it does not wait.
func (c *call) enter(limit chan struct{}) bool {
	c.leave()
	select {
	case limit <- struct{}{}:
		c.place = limit
		return true
	default:
		return false
	}
}

// enterSlow takes one of the caller's places among the slow requests, leaving
// the one before; it does not wait.
func (c *call) enterSlow(s *slowPlaces) bool {
	c.leave()
	if !s.take(c.caller.Account) {
		return false
	}
	c.slow = s
	return true
}

func (c *call) leave() {
	if c.place != nil {
		<-c.place
		c.place = nil
	}
	if c.slow != nil {
		c.slow.release(c.caller.Account)
		c.slow = nil
	}
}

// slowPlaces are the places of requests that take long. One account has a
// quarter of them at most. Safe for concurrent use.
type slowPlaces struct {
	all, each int

	mu    sync.Mutex
	taken map[string]int // by account
	total int
}

func newSlowPlaces(all int) *slowPlaces {
	return &slowPlaces{all: all, each: max(1, all/4), taken: map[string]int{}}
}

func (s *slowPlaces) take(account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.all || s.taken[account] >= s.each {
		return false
	}
	s.total++
	s.taken[account]++
	return true
}

func (s *slowPlaces) release(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.taken[account]--; s.taken[account] == 0 {
		delete(s.taken, account)
	}
}

// token is the HSM behind the store that a key lives in.
func (c *call) token(key *metadata.KeyEntry) hsm.Token { return c.gateway.tokens[key.Store] }

// tokenOf is the same, or [hsm.ErrUnavailable] where none is configured.
func (c *call) tokenOf(key *metadata.KeyEntry) (hsm.Token, error) {
	token := c.token(key)
	if token == nil {
		return nil, fmt.Errorf("%w: no token is configured for key store %s", hsm.ErrUnavailable, key.Store)
	}
	return token, nil
}

// onBehalf says to the token for whom it works: the owner of the key.
func (c *call) onBehalf(key *metadata.KeyEntry) hsm.Call { return hsm.Call{Account: key.Account} }

// wireError is what the caller is told of an error. The cause of an internal
// error goes to the log, under the request id, and never to the caller.
func (c *call) wireError(err error) *kmsapi.Error {
	if wire, ok := errors.AsType[*kmsapi.Error](err); ok {
		return wire
	}
	if missing, ok := errors.AsType[*missingError](err); ok {
		return c.missing(missing)
	}
	for _, t := range translations {
		if errors.Is(err, t.is) && (t.operation == "" || t.operation == c.event.Name) {
			c.shed = c.shed || t.shed
			c.gateway.report(c, t.alarm, err)
			return t.say
		}
	}
	c.gateway.report(c, false, err)
	return kmsapi.Internal()
}
