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
	// Pending: what CancelKeyDeletion undoes.
	Pending = PendingDeletion.Set() | PendingReplicaDeletion.Set()
	// Manageable: tags, description, and becoming the target of an alias.
	Manageable = AllStates &^ (Pending | Deleted.Set())
	// Importable: GetParametersForImport and ImportKeyMaterial.
	Importable = Enabled.Set() | Disabled.Set() | PendingImport.Set() | Updating.Set()
	// Droppable: DeleteImportedKeyMaterial, and expiry.
	Droppable = Importable&^Updating.Set() | Pending
	// Grantable: new grants.
	Grantable = Enabled.Set() | Unavailable.Set() | Updating.Set()
	// Replicable: primary keys that replicas are made of.
	Replicable = Enabled.Set()
	// present: whatever may be done to a key that callers can still see.
	present = AllStates &^ Deleted.Set()
)

// A Transition is a way for a key from one of several states to another (KMS
// Developer Guide, "Key states of AWS KMS keys").
type Transition struct {
	From States
	To   State
}

// Transitions of keys: all there are. Their statements name From in the WHERE, so
// that of two that race, one finds the key in another state.
var (
	// Enabling and Disabling: EnableKey and DisableKey; again changes nothing.
	Enabling  = Transition{Switchable, Enabled}
	Disabling = Transition{Switchable, Disabled}
	// Losing: the token does not have the key's object. Recovering: it is back.
	Losing     = Transition{Enabled.Set(), Unavailable}
	Recovering = Transition{Unavailable.Set(), Enabled}
	// Importing: the last material that a key lacked has come. AwaitingImport: imported
	// material was deleted or has expired.
	Importing      = Transition{PendingImport.Set(), Enabled}
	AwaitingImport = Transition{Importable &^ Updating.Set(), PendingImport}
	// Replicating: a replica has all that its primary key has. ReplicatingImported: it
	// waits for its own material, for none is copied.
	Replicating         = Transition{Creating.Set(), Enabled}
	ReplicatingImported = Transition{Creating.Set(), PendingImport}
	// SchedulingDeletion and CancellingDeletion: ScheduleKeyDeletion and
	// CancelKeyDeletion, which tells nothing of the state that the key was in before.
	SchedulingDeletion = Transition{Manageable &^ Updating.Set(), PendingDeletion}
	CancellingDeletion = Transition{Pending, Disabled}
	// ResumingReplication: CancelKeyDeletion of a replica that has no materials yet.
	ResumingReplication = Transition{Pending, Creating}
	// AwaitingReplicas: ScheduleKeyDeletion of a primary key that has replicas. ReplicasGone:
	// the last of them is deleted, and the window begins.
	AwaitingReplicas = Transition{SchedulingDeletion.From, PendingReplicaDeletion}
	ReplicasGone     = Transition{PendingReplicaDeletion.Set(), PendingDeletion}
	// Moving: UpdatePrimaryRegion, of both keys; again while they are at it. Moved: it is
	// done.
	Moving = Transition{Enabled.Set() | Updating.Set(), Updating}
	Moved  = Transition{Updating.Set(), Enabled}
	// Deleting: the window is over. There is no way back.
	Deleting = Transition{PendingDeletion.Set(), Deleted}
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
