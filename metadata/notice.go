package metadata

import (
	"encoding/json"
	"fmt"
)

// channel is the one that every instance listens on. Notices and heartbeats
// share it, for their order is what the lease rests on.
const channel = "kmsgate"

// maxNoticeBytes is Postgres's limit of a notice's payload (documentation of
// NOTIFY: shorter than 8000 bytes), less room for account and version.
const maxNoticeBytes = 7800

// kind says what kind of thing changed.
type kind string

// Kinds of things that are cached, as notices name them.
const (
	kindKey       kind = "key"            // state, description, policy, tags, materials
	kindAlias     kind = "alias"          // where it points
	kindAccessKey kind = "access-key"     // its secret, status and owner
	kindGrants    kind = "grants"         // on a key, of one grantee
	kindPrincipal kind = "principal"      // a user, group or role: all that decisions about it rest on
	kindManaged   kind = "managed-policy" // its document
	kindProvider  kind = "provider"       // an OIDC provider: its client ids and keys
)

// cacheKeys is the table of kinds: where in the cache a changed thing lies. A
// notice of a kind that is not here comes from a newer binary; it drops
// everything of its account.
var cacheKeys = map[kind]func(account string, t target) cacheKey{
	kindKey:       func(_ string, t target) cacheKey { return keyKey(t.Region, t.ID) },
	kindAlias:     func(account string, t target) cacheKey { return aliasKey(account, t.Region, t.ID) },
	kindAccessKey: func(_ string, t target) cacheKey { return accessKeyKey(t.ID) },
	kindGrants:    func(_ string, t target) cacheKey { return cacheKey{kind: kindGrants, region: t.Region, id: t.ID} },
	kindPrincipal: func(account string, t target) cacheKey {
		return cacheKey{kind: kindPrincipal, account: account, id: t.ID}
	},
	kindManaged:  func(account string, t target) cacheKey { return managedPolicyKey(account, t.ID) },
	kindProvider: func(account string, t target) cacheKey { return providerKey(account, t.ID) },
}

// target is one thing that a change touched.
type target struct {
	Kind   kind   `json:"k"`
	Region string `json:"r,omitempty"`
	ID     string `json:"i,omitempty"`
}

// notice is what travels on the channel: a change (Account set) or a heartbeat
// (Session set).
type notice struct {
	Account string   `json:"a,omitempty"`
	Version int64    `json:"v,omitempty"`
	Targets []target `json:"t,omitempty"` // none: anything of the account may have changed

	Session string `json:"s,omitempty"` // of the connection that sent it; random
	Beat    int64  `json:"n,omitempty"`
}

// encodeTargets is the part of a change's payload that the transaction knows
// before it knows the version. What does not fit is left out, which drops more.
func encodeTargets(targets []target) (string, error) {
	b, err := json.Marshal(targets)
	if err != nil {
		return "", fmt.Errorf("encode notice: %w", err)
	}
	if len(b) > maxNoticeBytes {
		return "[]", nil
	}
	return string(b), nil
}

func parseNotice(payload string) (notice, error) {
	var n notice
	if err := json.Unmarshal([]byte(payload), &n); err != nil {
		return notice{}, fmt.Errorf("parse notice: %w", err)
	}
	return n, nil
}
