package reconcile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"kmsgate/metadata"
	"kmsgate/metadata/metadatatest"
)

const (
	hookAccount = "111122223333"
	hookRegion  = "eu-central-1"
)

var hookTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func discarded() *stdlog.Logger { return stdlog.New(io.Discard, "", 0) }

// A receiver is a site's webhook. It verifies what comes by the specification, with
// an HMAC of its own.
type receiver struct {
	*httptest.Server
	t  *testing.T
	mu sync.Mutex
	// got are the events that came, by key and minute after hookTime, in order.
	got []string
	ids []string
	// answer is what is answered; nil for 200.
	answer func(w http.ResponseWriter)
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Server.Close)
	return r
}

// hmacOf is RFC 2104's HMAC-SHA256, written out.
func hmacOf(key, message []byte) []byte {
	var inner, outer [64]byte
	copy(inner[:], key) // not longer than a block here
	copy(outer[:], key)
	for i := range inner {
		inner[i], outer[i] = inner[i]^0x36, outer[i]^0x5c
	}
	digest := sha256.Sum256(append(inner[:], message...))
	digest = sha256.Sum256(append(outer[:], digest[:]...))
	return digest[:]
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		r.t.Error(err)
	}
	id, timestamp := q.Header.Get("Webhook-Id"), q.Header.Get("Webhook-Timestamp")
	signed := bytes.Join([][]byte{[]byte(id), []byte(timestamp), body}, []byte("."))
	want := "v1," + base64.StdEncoding.EncodeToString(hmacOf(testSecret, signed))
	if got := q.Header.Get("Webhook-Signature"); got != want || q.Method != http.MethodPost || q.Header.Get("Content-Type") != "application/json" {
		r.t.Errorf("%s with signature %q, want %q", q.Method, got, want)
	}
	var event struct {
		ID     string
		Time   time.Time
		Detail struct {
			Key string `json:"key-id"`
		}
	}
	if err := json.Unmarshal(body, &event); err != nil || event.ID != id {
		r.t.Errorf("event %s, %v; want the id %s", body, err, id)
	}
	if _, err := strconv.ParseInt(timestamp, 10, 64); err != nil {
		r.t.Errorf("timestamp %q", timestamp)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, fmt.Sprintf("%s %d", event.Detail.Key, int(event.Time.Sub(hookTime).Minutes())))
	r.ids = append(r.ids, id)
	if r.answer != nil {
		r.answer(w)
	}
}

// set changes what is answered.
func (r *receiver) set(answer func(http.ResponseWriter)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// take is what came since the last time.
func (r *receiver) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

func status(code int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { w.WriteHeader(code) }
}

// sender is an instance with a webhook, on a database.
func sender(t *testing.T, db *metadatatest.Database, r *receiver) (*Reconciler, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	return New(Config{
		Store:   db.Open(t, func(c *metadata.Config) { c.QueueEvents = true }),
		Logger:  slog.New(slog.NewTextHandler(log, nil)),
		Webhook: newWebhook(t, r.URL, testSecret), Metrics: prometheus.NewRegistry(),
	}), log
}

// queue queues an event of a key, so many minutes after hookTime.
func queue(t *testing.T, r *Reconciler, key string, minute int) {
	t.Helper()
	err := r.Store.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
		return []byte(`{}`), tx.QueueEvent(t.Context(), metadata.Event{
			Type: metadata.KeyDeleted, Account: hookAccount, Region: hookRegion, KeyID: key, At: hookTime.Add(time.Duration(minute) * time.Minute),
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// send does the job until nothing is due.
func send(t *testing.T, r *Reconciler, now time.Time) {
	t.Helper()
	for {
		done, err := r.SendEvents(t.Context(), now)
		if err != nil {
			t.Fatalf("SendEvents: %v", err)
		}
		if done == 0 {
			return
		}
	}
}

func wantWaiting(t *testing.T, r *Reconciler, want int64) {
	t.Helper()
	if n, _, err := r.Store.EventBacklog(t.Context()); err != nil || n != want {
		t.Errorf("%d events wait, %v; want %d", n, err, want)
	}
}

func TestEventsArriveOnceAndInOrder(t *testing.T) {
	t.Parallel()
	receiver := newReceiver(t)
	db := metadatatest.NewDatabase(t)
	one, _ := sender(t, db, receiver)
	two, _ := sender(t, db, receiver)
	keys := []string{uuid.NewString(), uuid.NewString(), uuid.NewString()}
	const each = 10
	for minute := range each {
		for _, key := range keys {
			queue(t, one, key, minute)
		}
	}
	now := hookTime.Add(time.Hour)
	var group sync.WaitGroup
	for _, r := range []*Reconciler{one, two, one, two} {
		group.Go(func() {
			for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
				if _, err := r.SendEvents(t.Context(), now); err != nil {
					t.Errorf("SendEvents: %v", err)
				}
				if n, _, err := r.Store.EventBacklog(t.Context()); n == 0 || err != nil {
					return
				}
			}
		})
	}
	group.Wait()
	wantWaiting(t, one, 0)
	got := receiver.take()
	for _, key := range keys {
		var want, of []string
		for minute := range each {
			want = append(want, fmt.Sprintf("%s %d", key, minute))
		}
		for _, event := range got {
			if strings.HasPrefix(event, key) {
				of = append(of, event)
			}
		}
		if !slices.Equal(of, want) {
			t.Errorf("of key %s came %v, want each minute once and in order", key, of)
		}
	}
}

// TestEventIsPostedAgainAfterACrash ends the sender after its post has arrived and
// before the event is taken from the outbox.
func TestEventIsPostedAgainAfterACrash(t *testing.T) {
	t.Parallel()
	receiver := newReceiver(t)
	db := metadatatest.NewDatabase(t)
	dead, _ := sender(t, db, receiver)
	alive, _ := sender(t, db, receiver)
	key := uuid.NewString()
	queue(t, dead, key, 0)
	ctx, crash := context.WithCancel(t.Context())
	receiver.set(func(http.ResponseWriter) { crash() })
	if done, err := dead.SendEvents(ctx, hookTime); err == nil || done != 0 {
		t.Fatalf("SendEvents = %d, %v; want it cut off", done, err)
	}
	receiver.set(nil)
	send(t, alive, hookTime.Add(dead.Webhook.timeout+claimSlack-time.Second)) // the claim still stands
	wantWaiting(t, alive, 1)
	send(t, alive, hookTime.Add(dead.Webhook.timeout+claimSlack))
	wantWaiting(t, alive, 0)
	if got := receiver.take(); len(got) != 2 || got[0] != got[1] || receiver.ids[0] != receiver.ids[1] {
		t.Errorf("came %v with the ids %v, want the same event twice", got, receiver.ids)
	}
}

// TestWebhookDownAndBack answers nothing useful for a while: what waits comes when
// it is back, in order, and the attempts become rarer.
func TestWebhookDownAndBack(t *testing.T) {
	t.Parallel()
	receiver := newReceiver(t)
	r, _ := sender(t, metadatatest.NewDatabase(t), receiver)
	key := uuid.NewString()
	queue(t, r, key, 0)
	queue(t, r, key, 1)
	receiver.set(status(http.StatusServiceUnavailable))
	now := hookTime.Add(2 * time.Minute)
	var at []time.Duration
	for d := time.Duration(0); d < time.Hour; d += time.Second {
		if _, err := r.SendEvents(t.Context(), now.Add(d)); err != nil {
			at = append(at, d)
		}
	}
	want := []time.Duration{0, 5, 15, 35, 75, 155, 315, 635, 1235, 1835, 2435, 3035}
	for i := range want {
		want[i] *= time.Second
	}
	if !slices.Equal(at, want) {
		t.Errorf("attempts after %v, want %v", at, want)
	}
	if got := receiver.take(); len(got) != len(want) || got[len(got)-1] != key+" 0" {
		t.Errorf("came %v, want the first event alone", got)
	}
	receiver.set(nil)
	send(t, r, now.Add(2*time.Hour))
	if got := receiver.take(); !slices.Equal(got, []string{key + " 0", key + " 1"}) {
		t.Errorf("came %v, want both in order", got)
	}
	if posted, failed := number(t, r, "kmsgate_event_posts_total", eventPosted), number(t, r, "kmsgate_event_posts_total", eventFailed); posted != 2 || failed != float64(len(want)) {
		t.Errorf("counted %v posted and %v failed", posted, failed)
	}
}

// TestEventIsGivenUpAfterAWeek has a receiver that refuses one event for ever: those
// after it are not kept from coming for ever.
func TestEventIsGivenUpAfterAWeek(t *testing.T) {
	t.Parallel()
	receiver := newReceiver(t)
	r, log := sender(t, metadatatest.NewDatabase(t), receiver)
	key := uuid.NewString()
	queue(t, r, key, 0)
	receiver.set(status(http.StatusBadRequest))
	for _, now := range []time.Time{hookTime, hookTime.Add(maxEventAge), hookTime.Add(maxEventAge + time.Hour)} {
		wantWaiting(t, r, 1)
		if _, err := r.SendEvents(t.Context(), now); err == nil {
			t.Errorf("SendEvents at %v succeeded", now)
		}
	}
	wantWaiting(t, r, 0)
	if got := number(t, r, "kmsgate_event_posts_total", eventDropped); got != 1 || !strings.Contains(log.String(), "event given up") {
		t.Errorf("%v events counted as dropped, log %q; want one", got, log)
	}
	receiver.set(nil)
	queue(t, r, key, 1)
	send(t, r, hookTime.Add(maxEventAge+2*time.Hour))
	if got := receiver.take(); got[len(got)-1] != key+" 1" {
		t.Errorf("came %v, want the later event at last", got)
	}
}

func TestWatchCountsWhatWaits(t *testing.T) {
	t.Parallel()
	r, _ := sender(t, metadatatest.NewDatabase(t), newReceiver(t))
	err := r.Store.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
		return []byte(`{}`), tx.EnsureRegion(t.Context(), metadata.Region{Name: hookRegion, CreatedAt: hookTime})
	})
	if err != nil {
		t.Fatal(err)
	}
	queue(t, r, uuid.NewString(), 1)
	queue(t, r, uuid.NewString(), 2)
	if done, err := r.Watch(t.Context(), hookTime.Add(3*time.Minute)); err != nil || done != 0 {
		t.Fatalf("Watch = %d, %v", done, err)
	}
	if waiting, oldest := number(t, r, "kmsgate_events_waiting", ""), number(t, r, "kmsgate_events_oldest_seconds", ""); waiting != 2 || oldest != 120 {
		t.Errorf("%v events wait, the oldest for %v s; want 2 and 120", waiting, oldest)
	}
	if pending := number(t, r, "kmsgate_keys_pending_deletion", hookRegion); pending != 0 {
		t.Errorf("%v keys wait for deletion, want none", pending)
	}
	if n := number(t, r, "kmsgate_next_key_deletion_seconds", hookRegion); n != -1 {
		t.Errorf("%v s until a deletion, want none", n)
	}
}

// number is what a number of an instance is; -1 if there is none of that label.
func number(t *testing.T, r *Reconciler, name, label string) float64 {
	t.Helper()
	families, err := r.Metrics.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return -1
}
