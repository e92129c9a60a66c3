package integration_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

const webhookSecret = "a secret of thirty-two bytes...."

// A webhook is a site's receiver of events.
type webhook struct {
	*httptest.Server
	t  testing.TB
	mu sync.Mutex
	// answer comes before the status, which it returns; the event is kept if that is 200.
	answer func(keyEvent) int
	got    []keyEvent
}

// A keyEvent is an event as it is posted.
type keyEvent struct {
	ID         string            `json:"id"`
	DetailType string            `json:"detail-type"`
	Source     string            `json:"source"`
	Account    string            `json:"account"`
	Region     string            `json:"region"`
	Time       time.Time         `json:"time"`
	Resources  []string          `json:"resources"`
	Detail     map[string]string `json:"detail"`
}

func newWebhook(t testing.TB, answer func(keyEvent) int) *webhook {
	t.Helper()
	w := &webhook{t: t, answer: answer}
	w.Server = httptest.NewServer(w)
	t.Cleanup(w.Close)
	return w
}

func (w *webhook) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Error(err)
	}
	mac := hmac.New(sha256.New, []byte(webhookSecret))
	_, _ = io.WriteString(mac, r.Header.Get("Webhook-Id")+"."+r.Header.Get("Webhook-Timestamp")+"."+string(body)) // never fails
	if got, want := r.Header.Get("Webhook-Signature"), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)); got != want {
		w.t.Errorf("signature %q, want %q", got, want)
	}
	var e keyEvent
	if err := json.Unmarshal(body, &e); err != nil || e.ID != r.Header.Get("Webhook-Id") {
		w.t.Errorf("event %s, %v", body, err)
	}
	status := w.answer(e)
	w.mu.Lock()
	defer w.mu.Unlock()
	if status == http.StatusOK {
		w.got = append(w.got, e)
	}
	out.WriteHeader(status)
}

// events are those that were taken.
func (w *webhook) events() []keyEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.got)
}

// TestEventsReachTheWebhook deletes a key of a site with two instances, which end by
// kill -9 when the event is posted: it comes again from the next. A rotation comes
// once.
func TestEventsReachTheWebhook(t *testing.T) {
	t.Parallel()
	first := make(chan keyEvent)
	var once sync.Once
	hook := newWebhook(t, func(e keyEvent) int {
		status := http.StatusOK
		once.Do(func() {
			first <- e
			<-first // until the instances are dead
			status = http.StatusServiceUnavailable
		})
		return status
	})
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	if err := os.WriteFile(s.path("secret"), []byte(hideText(webhookSecret)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.set(t, "#events:\n", "events:\n  url: "+hook.URL+"\n  secret_file: "+s.path("secret")+"\n  timeout: 5s\n#events:\n")
	keys := map[string]credentials{own: s.prepare(t)}
	one, two := s.serve(t, keys), s.serve(t, keys)
	deleted, rotated := one.createKey(t, own), two.createKey(t, own)
	one.mustCall(t, own, "ScheduleKeyDeletion", m{"KeyId": deleted, "PendingWindowInDays": 7})
	conn := connect(t, s.database)
	if _, err := conn.Exec(t.Context(), `UPDATE keys SET deletion_at = deletion_at - interval '8 days' WHERE id = $1`, idOf(deleted)); err != nil {
		t.Fatal(err)
	}
	posted := <-first
	one.kill()
	two.kill()
	first <- posted

	three := s.serve(t, keys)
	three.mustCall(t, own, "RotateKeyOnDemand", m{"KeyId": rotated})
	eventually(t, "both events have come", func() bool { return len(hook.events()) >= 2 })
	byKey := map[string]keyEvent{}
	for _, e := range hook.events() {
		byKey[e.Detail["key-id"]] = e
		if e.Source != "aws.kms" || e.Account != own || e.Region != region || time.Since(e.Time).Abs() > time.Hour {
			t.Errorf("event %+v", e)
		}
	}
	if again := byKey[posted.Detail["key-id"]]; again.ID != posted.ID {
		t.Errorf("of the key whose event was cut off came %+v, want %s again", again, posted.ID)
	}
	if e := byKey[idOf(deleted)]; e.DetailType != "KMS CMK Deletion" || !slices.Equal(e.Resources, []string{deleted}) || len(e.Detail) != 1 {
		t.Errorf("of the deleted key came %+v", e)
	}
	if e := byKey[idOf(rotated)]; e.DetailType != "KMS CMK Rotation" || e.Detail["rotation-type"] != "ON_DEMAND" || e.Detail["key-origin"] != "AWS_KMS" ||
		len(e.Detail["previous-key-material-id"]) != 64 || len(e.Detail["current-key-material-id"]) != 64 {
		t.Errorf("of the rotated key came %+v", e)
	}
	eventually(t, "nothing waits any more", func() bool {
		var waiting int
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM event_outbox`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		return waiting == 0
	})
	if n := len(hook.events()); n != 2 {
		t.Errorf("%d events were taken, want 2", n)
	}
	if got := three.number(t, "kmsgate_event_posts_total"); got != 2 {
		t.Errorf("%v attempts to post counted, want 2", got)
	}
}
