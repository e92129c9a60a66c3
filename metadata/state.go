package metadata

import "slices"

// State is a KMS key's state in AWS's spelling (KMS Developer Guide, "Key states
// of AWS KMS keys").
type State string

// Key states. Deleted is not AWS's: a key whose material is being removed, which
// no caller sees any more.
const (
	Creating               State = "Creating"
	Enabled                State = "Enabled"
	Disabled               State = "Disabled"
	PendingImport          State = "PendingImport"
	PendingDeletion        State = "PendingDeletion"
	PendingReplicaDeletion State = "PendingReplicaDeletion"
	Unavailable            State = "Unavailable"
	Updating               State = "Updating"
	Deleted                State = "Deleted"
)

// states are all states; a state's place is its bit in States.
var states = []State{
	Creating, Enabled, Disabled, PendingImport, PendingDeletion,
	PendingReplicaDeletion, Unavailable, Updating, Deleted,
}

// States is a set of key states. The zero value is the empty set.
type States uint16

// AllStates has every state.
const AllStates States = 1<<9 - 1

// Sets of states that a change is allowed in. The WHERE of its statement holds
// the set, so that a state that changed after the caller looked is seen.
var (
	// Switchable: EnableKey and DisableKey.
	Switchable = Enabled.Set() | Disabled.Set() | Unavailable.Set()
	// Manageable: tags, description, and becoming the target of an alias.
	Manageable = AllStates &^ (PendingDeletion.Set() | PendingReplicaDeletion.Set() | Deleted.Set())
	// Grantable: new grants.
	Grantable = Enabled.Set() | Unavailable.Set() | Updating.Set()
	// present: whatever may be done to a key that callers can still see.
	present = AllStates &^ Deleted.Set()
)

// Set is the set of only s; empty if s is no state.
func (s State) Set() States {
	i := slices.Index(states, s)
	if i < 0 {
		return 0
	}
	return 1 << i
}

// Has tells whether s is in the set.
func (set States) Has(s State) bool { return set&s.Set() != 0 }

// names are the states of the set as Postgres has them.
func (set States) names() []string {
	names := make([]string, 0, len(states))
	for _, s := range states {
		if set.Has(s) {
			names = append(names, string(s))
		}
	}
	return names
}
