package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

func TestReady(t *testing.T) {
	f := newFixture(t, nil)
	if err := f.Ready(t.Context()); err != nil {
		t.Errorf("Ready = %v, want nil", err)
	}
	f.wantProbe(t, t.Context(), http.StatusOK)
	for _, skew := range []time.Duration{3 * time.Second, -3 * time.Second} {
		f.skew.Store(int64(skew))
		if err := f.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "clock") {
			t.Errorf("Ready with a clock that is off by %s = %v, want an error that says so", skew, err)
		}
	}
	f.skew.Store(0)
	if err := f.engine.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), testStore) {
		t.Errorf("Ready without the token = %v, want an error that names the key store", err)
	}
}

// TestReadyz asks over HTTP; answers hold for a second of the gateway's clock.
func TestReadyz(t *testing.T) {
	var hours atomic.Int64 // what the gateway's own clock is ahead
	f := newFixture(t, func(c *Config) {
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(hours.Load()) * time.Hour) }
	})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	f.wantProbe(t, gone, http.StatusOK)
	f.wantProbe(t, t.Context(), http.StatusOK)
	if err := f.engine.Close(); err != nil {
		t.Fatal(err)
	}
	hours.Add(1)
	first := f.wantProbe(t, t.Context(), http.StatusServiceUnavailable)
	if !strings.Contains(first, "region us-east-1 is not served since 20") || !strings.Contains(first, "taken in again as soon as it answers") {
		t.Errorf("/readyz says %q, want which region is not served, since when, and what to do", first)
	}
	hours.Add(1)
	if second := f.wantProbe(t, t.Context(), http.StatusServiceUnavailable); second != first {
		t.Errorf("/readyz an hour later: %q, want the same as at first: %q", second, first)
	}
	if got := f.log.String(); !strings.Contains(got, "not ready") || !strings.Contains(got, testStore) {
		t.Errorf("the log does not say why it is not ready:\n%s", got)
	}
}

// wantProbe asks /readyz, with the client's context as it reaches the server.
func (f *fixture) wantProbe(t *testing.T, client context.Context, status int) (body string) {
	t.Helper()
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, httptest.NewRequestWithContext(client, http.MethodGet, "/readyz", nil))
	if w.Code != status {
		t.Errorf("/readyz: %d %q, want %d; the log:\n%s", w.Code, w.Body, status, f.log)
	}
	return w.Body.String()
}

func TestPanicsStayWithinTheirRequest(t *testing.T) {
	f := newFixture(t, nil)
	const secret = "what nobody may read"
	f.handle("PanicInCheck", func(*call) (work[kmsapi.Empty], error) { panic(secret) })
	f.handle("PanicInWork", func(*call) (work[kmsapi.Empty], error) {
		return work[kmsapi.Empty]{do: func(context.Context) (*kmsapi.Empty, error) { panic(fmt.Errorf("an error: %s", secret)) }}, nil
	})
	f.handle("PanicInCommit", func(*call) (work[kmsapi.Empty], error) {
		return work[kmsapi.Empty]{commit: func(context.Context, *metadata.Tx) (*kmsapi.Empty, error) { panic([]byte(secret)) }}, nil
	})
	f.handle("PanicAfterChange", func(c *call) (work[kmsapi.Empty], error) {
		if err := f.move(c.ctx, account1); err != nil {
			t.Error(err)
		}
		panic(secret)
	})
	f.handle("Fine", nothing)
	for range 10 { // more than there are connections to the database
		for _, operation := range []string{"PanicInCheck", "PanicInWork", "PanicInCommit", "PanicAfterChange"} {
			a := f.want(t, account1, operation, http.StatusInternalServerError, kmsapi.KMSInternalException)
			f.wantRecord(t, a, kmsapi.KMSInternalException)
			f.wantIdle(t)
		}
	}
	f.want(t, account1, "Fine", http.StatusOK, "")
	got := f.log.String()
	if strings.Contains(got, secret) || strings.Contains(got, fmt.Sprint([]byte(secret))) {
		t.Errorf("the log has the value of a panic:\n%s", got)
	}
	if !strings.Contains(got, "PanicInCommit") || !strings.Contains(got, "gateway_test.go") {
		t.Errorf("the log does not say where the panic was:\n%s", got)
	}
}

// nothing is the handler of an operation that does nothing.
func nothing(*call) (work[kmsapi.Empty], error) {
	return work[kmsapi.Empty]{do: func(context.Context) (*kmsapi.Empty, error) { return nil, nil }}, nil
}

// TestThrottling sends more requests than the rate within one moment.
func TestThrottling(t *testing.T) {
	var f *fixture
	f = newFixture(t, func(c *Config) {
		c.Throttling, c.Clock = true, func() time.Time { return f.standstill() }
	})
	const over = 7
	body := `{"AliasName":"alias/a","TargetKeyId":"` + "1234abcd-12ab-34cd-56ef-1234567890ab" + `"}`
	for n := range otherRate + over {
		want := kmsapi.NotFoundException
		if n >= otherRate {
			want = kmsapi.ThrottlingException
		}
		a, err := f.call(t.Context(), account1, "CreateAlias", body)
		if err != nil || a.status != http.StatusBadRequest || a.code != string(want) {
			t.Errorf("request %d: %d %s, %v; want 400 %s", n, a.status, a.body, err, want)
		}
	}
	// Neither another account nor another operation pays for it.
	if a, err := f.call(t.Context(), account2, "CreateAlias", body); err != nil || a.code != string(kmsapi.NotFoundException) {
		t.Errorf("another account: %d %s, %v; want %s", a.status, a.body, err, kmsapi.NotFoundException)
	}
	f.want(t, account1, "ListKeys", http.StatusOK, "")
	f.wantIdle(t)

	f.flushNoise(t.Context(), f.stopped) // the second is not over: nothing yet
	if got := f.throttled(t); len(got) != 0 {
		t.Errorf("counted records before the second is over: %+v, want none", got)
	}
	for range 2 { // the second time there is nothing left
		f.flushNoise(t.Context(), f.stopped.Add(time.Second))
	}
	got := f.throttled(t)
	if len(got) != 1 {
		t.Fatalf("records of throttled requests: %+v, want one", got)
	}
	e := got[0]
	if e.EventName != "CreateAlias" || e.EventType != "AwsServiceEvent" || e.RequestID != "" || e.RecipientAccountID != account1 ||
		e.UserIdentity.AccountID != account1 || e.UserIdentity.AccessKeyID != f.keys[account1].AccessKeyID {
		t.Errorf("record %+v, want the count of CreateAlias by account %s", e, account1)
	}
	if d := e.AdditionalEventData; d.Count != over || d.Second.Unix() != f.stopped.Unix() {
		t.Errorf("%d requests at %s, want %d at %s", d.Count, d.Second, over, f.stopped)
	}
}

// throttled are the records of refusals for load.
func (f *fixture) throttled(t *testing.T) (found []event) {
	t.Helper()
	for _, e := range f.events(t) {
		if e.ErrorCode == string(kmsapi.ThrottlingException) {
			found = append(found, e)
		}
	}
	return found
}

func TestInFlightLimit(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxInFlight = 1 })
	entered, release := make(chan struct{}), make(chan struct{})
	f.handle("Hold", func(*call) (work[kmsapi.Empty], error) {
		return work[kmsapi.Empty]{do: func(context.Context) (*kmsapi.Empty, error) {
			entered <- struct{}{}
			<-release
			return nil, nil
		}}, nil
	})
	f.handle("Fine", nothing)
	type result struct {
		answer
		err error
	}
	held := make(chan result, 1)
	go func() {
		a, err := f.call(t.Context(), account1, "Hold", "{}")
		held <- result{a, err}
	}()
	select {
	case <-entered:
	case r := <-held:
		t.Fatalf("the first request was not held: %d %s, %v", r.status, r.body, r.err)
	}
	f.want(t, account2, "Fine", http.StatusBadRequest, kmsapi.ThrottlingException)
	close(release)
	if r := <-held; r.err != nil || r.status != http.StatusOK {
		t.Errorf("the first request: %d %s, %v; want success", r.status, r.body, r.err)
	}
	f.want(t, account2, "Fine", http.StatusOK, "")
	f.wantIdle(t)
}

// TestChangesThatDoNotHold are changes that others always get in before, and one
// of which nobody knows whether it holds. Only the first kind is decided anew.
func TestChangesThatDoNotHold(t *testing.T) {
	f := newFixture(t, nil)
	for _, tc := range []struct {
		name string
		err  error
		runs int64
	}{
		{"Stale", metadata.ErrStale, attempts},
		{"State", &metadata.StateError{State: metadata.Disabled}, attempts},
		{"Unknown", metadata.ErrUnknownOutcome, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var runs atomic.Int64
			f.handle(tc.name, func(*call) (work[kmsapi.Empty], error) {
				return work[kmsapi.Empty]{commit: func(ctx context.Context, _ *metadata.Tx) (*kmsapi.Empty, error) {
					runs.Add(1)
					if err := f.move(ctx, account1); err != nil {
						t.Error(err)
					}
					return nil, fmt.Errorf("for this test: %w", tc.err)
				}}, nil
			})
			a := f.want(t, account1, tc.name, http.StatusInternalServerError, kmsapi.KMSInternalException)
			f.wantRecord(t, a, kmsapi.KMSInternalException)
			if got := runs.Load(); got != tc.runs {
				t.Errorf("it ran %d times, want %d", got, tc.runs)
			}
			f.wantIdle(t)
		})
	}
}
