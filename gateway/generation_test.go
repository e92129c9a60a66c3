package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

const (
	ofPair   = `{"KeySpec":"ECC_NIST_P256","KeyUsage":"SIGN_VERIFY"}`
	ofRSA    = `{"KeySpec":"RSA_2048","KeyUsage":"SIGN_VERIFY"}`
	ofSecret = `{"KeySpec":"HMAC_256","KeyUsage":"GENERATE_VERIFY_MAC"}`
)

// handleMaking adds an operation that only the test has and that makes a key, as
// CreateKey does.
func (f *fixture) handleMaking(name string, work func(context.Context) error) {
	f.routes[route{serviceKMS, name}] = &operation{
		service: serviceKMS, name: name, bucket: bucket(name), makes: "KeySpec",
		typed: do(nil, func(*call, *kmsapi.CreateKeyRequest) (w worker, err error) {
			w.do = func(ctx context.Context) (*kmsapi.Empty, error) { return nil, work(ctx) }
			return w, nil
		}),
	}
}

type worker = work[kmsapi.Empty]

// TestPairsTakeTheirTime: a request that has a key pair made may work longer than
// any other.
func TestPairsTakeTheirTime(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Timeout, c.GenerationTimeout = time.Minute, time.Hour })
	var left time.Duration
	f.handleMaking("Make", func(ctx context.Context) error {
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
		return nil
	})
	for body, isLong := range map[string]bool{ofRSA: true, ofSecret: false, ofPair: false, `{"KeySpec":"SYMMETRIC_DEFAULT"}`: false, `{"KeySpec":"RSA_4096"}`: true, `{}`: false} {
		if a, err := f.call(t.Context(), account1, "Make", body); err != nil || a.status != http.StatusOK {
			t.Fatalf("%s: %d %s, %v", body, a.status, a.body, err)
		}
		if (left > time.Minute) != isLong || left <= 0 || left > time.Hour {
			t.Errorf("%s has %s, want more than a minute: %v", body, left, isLong)
		}
	}
	f.wantIdle(t)
}

// TestPairsOutliveTheWriteDeadline has a server that drops answers after a while,
// and work that takes longer.
func TestPairsOutliveTheWriteDeadline(t *testing.T) {
	f := newFixture(t, nil)
	const deadline = 300 * time.Millisecond
	server := httptest.NewUnstartedServer(f.Handler())
	server.Config.WriteTimeout, server.Config.ReadTimeout = deadline, deadline
	server.Start()
	t.Cleanup(server.Close)
	f.server = server
	f.handleMaking("Make", func(context.Context) error {
		time.Sleep(2 * deadline)
		return nil
	})
	if a, err := f.call(t.Context(), account1, "Make", ofSecret); err == nil {
		t.Errorf("after the deadline: %d %s, want no answer", a.status, a.body)
	}
	for range 2 {
		if a, err := f.call(t.Context(), account1, "Make", ofRSA); err != nil || a.status != http.StatusOK {
			t.Errorf("a pair: %d %s, %v; want success", a.status, a.body, err)
		}
	}
}

// TestRSAKeysHavePlacesOfTheirOwn: requests that wait for an RSA key take no place
// of other requests, are few, and those of one account fewer.
func TestRSAKeysHavePlacesOfTheirOwn(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxInFlight = 64 }) // eight for RSA keys, two an account
	entered, release := make(chan struct{}), make(chan struct{})
	f.handleMaking("Hold", func(context.Context) error {
		entered <- struct{}{}
		<-release
		return nil
	})
	f.handle("Fine", nothing)
	held := make(chan error, 3)
	hold := func(account string) {
		t.Helper()
		go func() {
			a, err := f.call(t.Context(), account, "Hold", ofRSA)
			if err == nil && a.status != http.StatusOK {
				err = fmt.Errorf("%d %s", a.status, a.body)
			}
			held <- err
		}()
		select {
		case <-entered:
		case err := <-held:
			t.Fatalf("a request of %s was not held: %v", account, err)
		}
	}
	hold(account1)
	hold(account1)
	if a, err := f.call(t.Context(), account1, "Hold", ofRSA); err != nil || a.code != string(kmsapi.ThrottlingException) {
		t.Errorf("the third RSA key of an account: %d %s, %v; want it throttled", a.status, a.body, err)
	}
	f.want(t, account1, "Fine", http.StatusOK, "")
	hold(account2) // is not kept out by the other account
	close(release)
	for range 3 {
		if err := <-held; err != nil {
			t.Errorf("a request that was held: %v, want success", err)
		}
	}
	f.wantIdle(t)
}

func TestSlowPlacesAreBounded(t *testing.T) {
	s := newSlowPlaces(4)
	for _, account := range []string{"a", "b", "c", "d"} {
		if !s.take(account) {
			t.Fatalf("%s gets no place", account)
		}
		if s.take(account) {
			t.Errorf("%s gets more than its share", account)
		}
	}
	if s.take("e") {
		t.Error("there are more places than all")
	}
	s.release("a")
	if !s.take("e") || s.take("a") {
		t.Error("a place that is given back is not the next one's")
	}
}

// busyToken is the real token behind the fixture, beside which something happens
// after it has made a key or a pair.
type busyToken struct {
	hsm.Token
	made, imported int
	then           func()
}

func (b *busyToken) Generate(ctx context.Context, on hsm.Call, k hsm.Key) (hsm.Key, error) {
	k, err := b.Token.Generate(ctx, on, k)
	b.made++
	b.then()
	return k, err
}

func (b *busyToken) Import(ctx context.Context, on hsm.Call, wrapping *hsm.Key, a keyspec.WrappingAlgorithm, wrapped []byte, k hsm.Key) (hsm.Key, error) {
	k, err := b.Token.Import(ctx, on, wrapping, a, wrapped, k)
	if b.imported++; b.imported == 1 {
		b.then()
	}
	return k, err
}

func (b *busyToken) GenerateDataKeyPair(ctx context.Context, on hsm.Call, spec keyspec.Spec) (hsm.DataKeyPair, error) {
	pair, err := b.Token.GenerateDataKeyPair(ctx, on, spec)
	b.made++
	b.then()
	return pair, err
}

// TestKeysAreMadeOnce has the caller's account change while the token makes a key:
// the request is decided anew, with the key that was made.
func TestKeysAreMadeOnce(t *testing.T) {
	var f *fixture
	token := &busyToken{}
	f = newFixture(t, func(c *Config) {
		token.Token, c.Tokens = c.Tokens[testStore], map[string]hsm.Token{testStore: token}
	})
	var moves atomic.Int64
	token.then = func() {
		moves.Add(1)
		if err := f.move(t.Context(), account1); err != nil {
			t.Error(err)
		}
	}
	created, err := f.call(t.Context(), account1, "CreateKey", ofSecret)
	if err != nil || created.status != http.StatusOK || token.made != 1 {
		t.Fatalf("CreateKey: %d %s, %v, made %d; want success with one key", created.status, created.body, err, token.made)
	}
	f.wantRecord(t, created, "")
	wrapping := f.createKey(t, account1, "{}")
	for _, operation := range []string{"GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext"} {
		token.made = 0
		a, err := f.call(t.Context(), account1, operation, `{"KeyPairSpec":"ECC_NIST_P256","KeyId":"`+wrapping+`"}`)
		if err != nil || a.status != http.StatusOK || token.made != 1 {
			t.Errorf("%s: %d %s, %v, made %d; want success with one pair", operation, a.status, a.body, err, token.made)
		}
		f.wantRecord(t, a, "")
	}
	if moves.Load() == 0 {
		t.Error("nothing happened beside the making of keys")
	}
	f.wantIdle(t)
}
