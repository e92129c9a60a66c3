package metadata

import (
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/policy"
)

// MultiRegionRole is a key's part in a set of multi-Region keys.
type MultiRegionRole string

// Roles of multi-Region keys; a single-Region key has none.
const (
	Primary MultiRegionRole = "PRIMARY"
	Replica MultiRegionRole = "REPLICA"
)

// Key is what Postgres knows of a KMS key, its material apart.
type Key struct {
	Region          string
	ID              string // UUID, or "mrk-" and 32 hexadecimal digits
	Account         string // 12 digits; who owns it
	Store           string // key store that its materials live in
	Spec            keyspec.Spec
	Usage           keyspec.Usage
	Origin          keyspec.Origin
	MultiRegionRole MultiRegionRole // empty for a single-Region key
	State           State
	Service         string     // of the site, whose key it is; empty for a customer's
	Description     string     // at most 8192 characters
	Version         int64      // raised by every change of this row; 1 when new
	CreatedAt       time.Time  // UTC, to the microsecond once it was stored
	DeletionAt      *time.Time // only in states PendingDeletion and Deleted
	DeletionWindow  int32      // days; only in these and in PendingReplicaDeletion
	Rotation        Rotation   // of a replica: its primary key's
}

// Name is the key's name.
func (k *Key) Name() KeyName { return KeyName{Region: k.Region, Account: k.Account, ID: k.ID} }

// ARN is the key's ARN.
func (k *Key) ARN() string { return arn.KeyARNOf(k.Region, k.Account, k.ID) }

// Rotation is what a key's rotation rests on.
type Rotation struct {
	PeriodDays  int32      // between automatic rotations; 0: the key is not rotated by itself
	NextAt      *time.Time // of the next automatic one; nil: the key is not rotated by itself
	OnDemand    int32      // rotations on demand that were done
	RequestedAt *time.Time // of a rotation on demand that is not done yet; nil for none
}

// Next is the automatic rotation that follows a time.
func (r *Rotation) Next(after time.Time) time.Time {
	return after.Add(time.Duration(r.PeriodDays) * 24 * time.Hour)
}

// RotationType says what a key was rotated by, in AWS's spelling (KMS API
// Reference, RotationsListEntry).
type RotationType string

// Types of rotations.
const (
	AutomaticRotation RotationType = "AUTOMATIC"
	OnDemandRotation  RotationType = "ON_DEMAND"
)

// Material is one key material of a key.
type Material struct {
	hsm.Key
	Current      bool // the one that encrypts; the others only decrypt
	CreatedAt    time.Time
	Pending      bool         // imported, and not used until the key is rotated to it
	RotatedAt    *time.Time   // when it became current by a rotation; nil for the first and for a pending one
	RotationType RotationType // empty if RotatedAt is nil
	ExpiresAt    *time.Time   // of imported material; nil: it does not expire
	Description  string       // of imported material, at most 256 characters
}

// Relative is one of related multi-Region keys: those of one account that have the
// same id, one in a Region.
type Relative struct {
	Region string
	Role   MultiRegionRole
	State  State
	Store  string
}

// KeyEntry is everything a request needs to know of a key. Entries come from the
// cache and are shared: nobody writes to them.
type KeyEntry struct {
	Key
	Materials      []Material // the current one first, then the newest
	Tags           []Tag      // in the order of their keys
	Aliases        []string   // their names, in order
	Related        []Relative // of a multi-Region key: all of its keys, itself among them, in the order of their regions
	PolicyDocument string     // as it was put, byte for byte
	// PolicyBindings are the unique ids that the document's users and roles are bound
	// to, by the ARNs in it.
	PolicyBindings map[string]string
	Policy         *policy.Policy // bound
}

// Present tells whether the material can be used at a time: it is there, and has
// not expired.
func (m *Material) Present(now time.Time) bool {
	return m.Residency != hsm.Absent && (m.ExpiresAt == nil || now.Before(*m.ExpiresAt))
}

// Whole tells whether the key has had material and all of it can be used at a time.
func (e *KeyEntry) Whole(now time.Time) bool {
	for i := range e.Materials {
		if m := &e.Materials[i]; !m.Pending && !m.Present(now) {
			return false
		}
	}
	return len(e.Materials) > 0
}

// Current is the material that encrypts; nil if the key has none yet.
func (e *KeyEntry) Current() *Material {
	if len(e.Materials) == 0 || !e.Materials[0].Current {
		return nil
	}
	return &e.Materials[0]
}

// Material is the material of that id; nil if the key has no such material.
func (e *KeyEntry) Material(id hsm.MaterialID) *Material {
	for i := range e.Materials {
		if e.Materials[i].MaterialID == id {
			return &e.Materials[i]
		}
	}
	return nil
}

// size estimates the bytes that the entry takes, its policy apart.
func (e *KeyEntry) size() int {
	size := 512 + len(e.Description)
	for i := range e.Materials {
		m := &e.Materials[i]
		size += 512 + len(m.Blob) + len(m.PublicKey) + len(m.CheckValue) + len(m.Binding)
	}
	for _, t := range e.Tags {
		size += 64 + len(t.Key) + len(t.Value)
	}
	for _, name := range e.Aliases {
		size += 32 + len(name)
	}
	size += 128 * len(e.Related)
	return size
}
