package audit

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"kmsgate/gateway/arn"
)

// Use is one use of a key by a successful cryptographic operation, as its
// record tells of it.
type Use struct {
	Region string
	KeyID  string
	// MaterialID is the key material that was used; zero if the record names
	// none, as for a key pair. Then nothing is counted.
	MaterialID  [32]byte
	Operation   string
	Encryptions int64
	Decryptions int64
	Time        time.Time // of the request, in UTC, to the second
	EventID     string
	RequestID   string
}

// Members of additionalEventData that name the material of a use.
const (
	KeyMaterialID            = "keyMaterialId"
	SourceKeyMaterialID      = "sourceKeyMaterialId"
	DestinationKeyMaterialID = "destinationKeyMaterialId"
)

// ErrBadUse is returned for a record of a cryptographic operation that does
// not say which key or material it used.
var ErrBadUse = errors.New("audit record does not tell its use of a key")

// part is what an operation does with one of its keys.
type part struct {
	material                 string // the member that names it
	encryptions, decryptions int64
}

// cryptographic are the operations that use a key (the 14 that KMS tracks for
// GetKeyLastUsage), with a part for each of the record's keys in turn. What is
// counted bounds the random IVs under a material: a data key pair's private
// key is encrypted like a data key.
var cryptographic = map[string][]part{
	"Encrypt":                             {{KeyMaterialID, 1, 0}},
	"Decrypt":                             {{KeyMaterialID, 0, 1}},
	"ReEncrypt":                           {{SourceKeyMaterialID, 0, 1}, {DestinationKeyMaterialID, 1, 0}},
	"GenerateDataKey":                     {{KeyMaterialID, 1, 0}},
	"GenerateDataKeyWithoutPlaintext":     {{KeyMaterialID, 1, 0}},
	"GenerateDataKeyPair":                 {{KeyMaterialID, 1, 0}},
	"GenerateDataKeyPairWithoutPlaintext": {{KeyMaterialID, 1, 0}},
	"Sign":                                {{KeyMaterialID, 0, 0}},
	"Verify":                              {{KeyMaterialID, 0, 0}},
	"GenerateMac":                         {{KeyMaterialID, 0, 0}},
	"VerifyMac":                           {{KeyMaterialID, 0, 0}},
	"DeriveSharedSecret":                  {{KeyMaterialID, 0, 0}},
	"Encapsulate":                         {{KeyMaterialID, 0, 0}},
	"Decapsulate":                         {{KeyMaterialID, 0, 0}},
}

// UsesOf reads the uses from the exact bytes of a record. Records of failures,
// of other operations and of the service itself have none. A key is counted in
// the record of its owner's account, so that a call recorded for two accounts
// counts once. The error wraps ErrBadUse.
func UsesOf(record []byte) ([]Use, error) {
	var r struct {
		EventTime           time.Time
		EventSource         string
		EventName           string
		ErrorCode           string
		AdditionalEventData map[string]json.RawMessage
		RequestID           string
		EventID             string
		Resources           []struct{ AccountID, ARN string }
		EventType           EventType
		RecipientAccountID  string
	}
	if err := json.Unmarshal(record, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadUse, err)
	}
	e := Event{
		Time: r.EventTime, Source: r.EventSource, Name: r.EventName, ErrorCode: r.ErrorCode,
		RequestID: r.RequestID, EventID: r.EventID, Type: r.EventType, RecipientAccount: r.RecipientAccountID,
	}
	for _, res := range r.Resources {
		e.Resources = append(e.Resources, Resource{Account: res.AccountID, ARN: res.ARN})
	}
	for _, p := range cryptographic[e.Name] {
		var id string
		if raw, ok := r.AdditionalEventData[p.material]; ok && json.Unmarshal(raw, &id) != nil {
			return nil, fmt.Errorf("%w: %s is not a string", ErrBadUse, p.material)
		}
		e.AdditionalEventData = append(e.AdditionalEventData, String(p.material, id))
	}
	return e.Uses()
}

// Uses are what [UsesOf] would read from the event's record.
func (e *Event) Uses() ([]Use, error) {
	parts := cryptographic[e.Name]
	if parts == nil || e.ErrorCode != "" || e.Type != APICall || e.Source != eventSourceKMS {
		return nil, nil
	}
	uses := make([]Use, 0, len(parts))
	for i, p := range parts {
		if i >= len(e.Resources) {
			return nil, fmt.Errorf("%w: %s with %d resources", ErrBadUse, e.Name, len(e.Resources))
		}
		if e.Resources[i].Account != e.RecipientAccount {
			continue
		}
		u, err := e.use(e.Resources[i].ARN, p)
		if err != nil {
			return nil, err
		}
		uses = append(uses, u)
	}
	return uses, nil
}

func (e *Event) use(keyARN string, p part) (Use, error) {
	ref, err := arn.Parse(keyARN)
	if err != nil || ref.Form != arn.KeyARN {
		return Use{}, fmt.Errorf("%w: %q is no key ARN", ErrBadUse, keyARN)
	}
	u := Use{
		Region: ref.Region, KeyID: ref.ID, Operation: e.Name,
		Time: e.Time.UTC().Truncate(time.Second), EventID: e.EventID, RequestID: e.RequestID,
	}
	id := e.AdditionalEventData.text(p.material)
	if id == "" {
		return u, nil
	}
	if len(id) != hex.EncodedLen(len(u.MaterialID)) {
		return Use{}, fmt.Errorf("%w: %s of %d digits", ErrBadUse, p.material, len(id))
	}
	if _, err := hex.Decode(u.MaterialID[:], []byte(id)); err != nil {
		return Use{}, fmt.Errorf("%w: %s %q", ErrBadUse, p.material, id)
	}
	u.Encryptions, u.Decryptions = p.encryptions, p.decryptions
	return u, nil
}
