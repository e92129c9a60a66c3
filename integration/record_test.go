package integration_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kmsgate/metadata"
)

// secrets are texts that no log may have, whoever made them: what goes through
// hide. Safe for concurrent use.
var secrets struct {
	mu    sync.Mutex
	texts []string
}

// hide makes sure that a secret is found if it gets into a log, as it is and in
// base64 at any offset, and returns it.
func hide(secret []byte) []byte {
	secrets.mu.Lock()
	defer secrets.mu.Unlock()
	secrets.texts = append(secrets.texts, string(secret))
	for skip := range 3 { // the middle of its base64, wherever it stands in a longer text
		if len(secret) > skip+6 {
			rest := secret[skip:]
			secrets.texts = append(secrets.texts, base64.StdEncoding.EncodeToString(rest[:len(rest)/3*3]))
		}
	}
	return secret
}

// hideText hides a text that is sent as it stands.
func hideText(text string) string {
	hide([]byte(text))
	return text
}

// ciphertext is a CiphertextBlob in base64: version 1 and a key id that is a UUID.
var ciphertext = regexp.MustCompile(`\bAQ[E-H][A-Za-z0-9+/]{80,}`)

// leaks are the secrets in a log.
func leaks(name, log string) (found problems) {
	if blob := ciphertext.FindString(log); blob != "" {
		found.add("%s has a ciphertext in it: %s", name, blob)
	}
	secrets.mu.Lock()
	defer secrets.mu.Unlock()
	for _, secret := range secrets.texts {
		if at := strings.Index(log, secret); at >= 0 {
			found.add("%s has a secret %q in it: %s", name, secret, log[max(0, at-200):min(len(log), at+200)])
		}
	}
	return found
}

// Members of every record, and those that some have (CloudTrail User Guide,
// "CloudTrail record contents").
var (
	always = []string{
		"eventVersion", "userIdentity", "eventTime", "eventSource", "eventName", "awsRegion", "sourceIPAddress", "requestParameters",
		"responseElements", "eventID", "readOnly", "eventType", "managementEvent", "eventCategory",
	}
	sometimes = []string{
		"userAgent", "errorCode", "errorMessage", "additionalEventData", "requestID", "resources", "recipientAccountId", "sharedEventID",
		"serviceEventDetails", "tlsDetails",
	}
	reads = []string{
		"Get", "List", "Describe", "Encrypt", "Decrypt", "ReEncrypt", "Generate", "Sign", "Verify", "DeriveSharedSecret", "Encapsulate", "Decapsulate",
	}
)

// malformedEvents are what is wrong with records, whatever they are about.
func malformedEvents(events []event) (found problems) {
	ids := map[string]bool{}
	for _, e := range events {
		if ids[e.EventID] {
			found.add("two records have the id %s", e.EventID)
		}
		ids[e.EventID] = true
		for _, problem := range e.problems() {
			found.add("record %s: %s", e.text, problem)
		}
		if len(found) > 20 {
			found.add("and more")
			return found
		}
	}
	return found
}

func (e *event) problems() (found problems) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(e.text), &members); err != nil {
		found.add("%v", err)
	}
	for _, name := range always {
		if _, ok := members[name]; !ok {
			found.add("no %s", name)
		}
	}
	for name := range maps.Keys(members) {
		if !slices.Contains(always, name) && !slices.Contains(sometimes, name) {
			found.add("a member %s, which CloudTrail does not have", name)
		}
	}
	_, timeErr := time.Parse("2006-01-02T15:04:05Z", e.EventTime)
	if e.EventVersion != "1.08" || timeErr != nil || !uuidPattern.MatchString(e.EventID) || !e.ManagementEvent || e.EventCategory != "Management" {
		found.add("version %s, time %s, id %s, management %v, category %s", e.EventVersion, e.EventTime, e.EventID, e.ManagementEvent, e.EventCategory)
	}
	if e.EventType != "AwsApiCall" {
		return found
	}
	if _, err := netip.ParseAddr(e.SourceIPAddress); err != nil || !uuidPattern.MatchString(e.RequestID) || e.AWSRegion != region {
		found.add("source %s, request id %s, region %s", e.SourceIPAddress, e.RequestID, e.AWSRegion)
	}
	if (e.ErrorCode == "") && e.ErrorMessage != "" {
		found.add("a message without a code")
	}
	if e.EventSource == "kms.amazonaws.com" && slices.Contains(served, e.EventName) {
		reading := slices.ContainsFunc(reads, func(prefix string) bool { return strings.HasPrefix(e.EventName, prefix) })
		if e.ReadOnly != reading {
			found.add("readOnly %v, want %v", e.ReadOnly, reading)
		}
	}
	if !e.identitySound() {
		found.add("identity %+v", e.UserIdentity)
	}
	return found
}

// identitySound checks who a record is of: nobody known, a principal of the
// account that it is for, or, in the log of another account, the caller's account
// alone.
func (e *event) identitySound() bool {
	u := e.UserIdentity
	if u.Type == "WebIdentityUser" {
		return u.ARN == "" && u.AccessKeyID == ""
	}
	switch u.AccountID {
	case "":
		return u.Type == "Unknown" && u.ARN == "" && u.PrincipalID == "" && e.RecipientAccountID == ""
	case e.RecipientAccountID:
		is, ok := callers[u.Type]
		return ok && is(u.AccountID, u.ARN, u.PrincipalID) && u.AccessKeyID != ""
	default:
		return u.Type == "AWSAccount" && u.ARN == "" && u.PrincipalID != "" && u.AccessKeyID == "" && e.SharedEventID != ""
	}
}

// callers are the types of identities that sign requests, and what their ARNs and
// unique ids look like (CloudTrail User Guide, "CloudTrail userIdentity element").
var callers = map[string]func(account, arn, id string) bool{
	"Root": func(account, arn, id string) bool { return arn == rootOf(account) && id == account },
	"IAMUser": func(account, arn, id string) bool {
		return strings.HasPrefix(arn, "arn:aws:iam::"+account+":user/") && strings.HasPrefix(id, "AIDA")
	},
	"AssumedRole": func(account, arn, id string) bool {
		_, session, _ := strings.Cut(id, ":")
		return strings.HasPrefix(arn, "arn:aws:sts::"+account+":assumed-role/") && strings.HasPrefix(id, "AROA") &&
			session != "" && strings.HasSuffix(arn, "/"+session)
	},
}

// chainFaults verifies every stream of the audit log against its hashes. atLeast is
// how many records were read of it before.
func (i *instance) chainFaults(atLeast int) (found problems) {
	count, err := i.verifyChains(context.Background())
	if err != nil {
		found.add("audit log: %v", err)
	}
	if count < atLeast {
		found.add("%d records in the chains, want at least the %d that were read", count, atLeast)
	}
	return found
}

// verifyChains returns the number of records in all streams, and what is wrong.
func (i *instance) verifyChains(ctx context.Context) (count int, err error) {
	text, err := os.ReadFile(i.config())
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "\n    url: ")
	address, _, _ := strings.Cut(rest, "\n")
	log, err := metadata.OpenAuditLog(ctx, metadata.Config{URL: address, Instance: "test"})
	if err != nil {
		return 0, err
	}
	defer log.Close()
	streams, err := log.Streams(ctx)
	if err != nil {
		return 0, err
	}
	if len(streams) == 0 {
		return 0, errors.New("no stream")
	}
	for _, s := range streams {
		report, verifyErr := log.Verify(ctx, s.Head.Stream)
		if verifyErr != nil || len(report.Faults) > 0 {
			err = errors.Join(err, verifyErr, fmt.Errorf("stream %v: %v", s.Head.Stream, report.Faults))
		}
		count += int(s.Head.Seq)
	}
	outbox, outboxErr := log.Outbox(ctx, 1000)
	return count + len(outbox), errors.Join(err, outboxErr)
}

func TestLeaksAreFound(t *testing.T) {
	t.Parallel()
	secret := hide([]byte("only in this test"))
	blob := gateway(t).mustCall(t, own, "Encrypt", m{"KeyId": gateway(t).createKey(t, own), "Plaintext": "AA=="})["CiphertextBlob"].(string)
	for name, log := range map[string]string{
		"as it is": "x " + string(secret) + " y", "in base64": base64.StdEncoding.EncodeToString(append([]byte("12"), secret...)), "a ciphertext": `{"a":"` + blob + `"}`,
	} {
		if len(leaks("a log", log)) == 0 {
			t.Errorf("%s: nothing is found", name)
		}
	}
	if got := leaks("a log", "nothing at all"); len(got) != 0 {
		t.Errorf("found %q in a log without secrets", got)
	}
}
