package cluster

import (
	"hash/maphash"
	"maps"
	"math/bits"

	"kmsgate/hsm"
)

// Held is one generation of a service key and the tokens that have it.
type Held struct {
	Kind       hsm.ServiceKeyKind
	Generation int32
	Active     bool     // new materials and seals are made with it
	Serials    []string // of tokens, not of members alone
}

// heldID names a generation of a service key.
type heldID struct {
	store      string
	kind       hsm.ServiceKeyKind
	generation int32
}

// generations says which members have what. It is replaced, never changed.
type generations struct {
	members map[heldID]uint64
	active  map[heldID]uint64 // generation is 0: that of the active one
}

// LearnServiceKeys says which tokens have which of a store's service keys, in place
// of what was said before.
func (c *Token) LearnServiceKeys(store string, held []Held) {
	c.learning.Lock()
	defer c.learning.Unlock()
	old := c.held.Load()
	next := &generations{members: maps.Clone(old.members), active: maps.Clone(old.active)}
	for _, of := range []*map[heldID]uint64{&next.members, &next.active} {
		if *of == nil {
			*of = map[heldID]uint64{}
		}
		maps.DeleteFunc(*of, func(id heldID, _ uint64) bool { return id.store == store })
	}
	for _, h := range held {
		var set uint64
		for _, m := range c.members {
			for _, serial := range h.Serials {
				if m.Serial == serial {
					set |= m.bit
				}
			}
		}
		next.members[heldID{store, h.Kind, h.Generation}] = set
		if h.Active {
			next.active[heldID{store, h.Kind, 0}] = set
		}
	}
	c.held.Store(next)
}

// all are all members.
func (c *Token) all() uint64 { return 1<<len(c.members) - 1 }

// holders are the members that have a generation of a service key. Of one that nobody
// has told of, any may.
func (c *Token) holders(store string, kind hsm.ServiceKeyKind, generation int32) uint64 {
	if set, known := c.held.Load().members[heldID{store, kind, generation}]; known {
		return set
	}
	return c.all()
}

// makers are the members that have the active generation of a service key.
func (c *Token) makers(store string, kind hsm.ServiceKeyKind) uint64 {
	if set, known := c.held.Load().active[heldID{store, kind, 0}]; known {
		return set
	}
	return c.all()
}

// holdersOf are the members that may be asked for a key.
func (c *Token) holdersOf(k *hsm.Key) uint64 {
	return c.holders(k.Store, hsm.BindingKey, k.Generation)
}

// spill is how many more calls than the idlest member one may have in flight and
// still get those for the keys that it has unwrapped.
const spill = 4

// pick is the member of a set that is to be asked next; nil if there is none. Members
// that are out are asked when there are no others: they know best whether they serve
// again.
func (c *Token) pick(set uint64, key []byte) *member {
	in := set
	for _, m := range c.members {
		if set&m.bit != 0 && m.isOut() {
			in &^= m.bit
		}
	}
	if in == 0 {
		in = set
	}
	return c.choose(in, key)
}

// choose weighs load against what members have unwrapped. Without a key it is the
// idlest, and of several the next in turn.
func (c *Token) choose(set uint64, key []byte) (chosen *member) {
	var idlest *member
	first := int(c.turn.Load() % uint64(len(c.members))) //nolint:gosec // less than len
	if key == nil {
		c.turn.Add(1)
	}
	for i := range c.members {
		m := c.members[(first+i)%len(c.members)]
		if set&m.bit != 0 && (idlest == nil || m.inFlight.Load() < idlest.inFlight.Load()) {
			idlest = m
		}
	}
	if key == nil || idlest == nil {
		return idlest
	}
	chosen = c.home(set, key)
	if chosen.inFlight.Load() > idlest.inFlight.Load()+spill {
		return idlest
	}
	return chosen
}

// home is the member of a set that a key belongs to as long as the set is the same;
// when it changes, few keys move (rendezvous hashing).
func (c *Token) home(set uint64, key []byte) (home *member) {
	h := maphash.Bytes(c.seed, key)
	var most uint64
	for i, m := range c.members {
		if set&m.bit == 0 {
			continue
		}
		high, low := bits.Mul64(h^uint64(i+1)*0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93) //nolint:gosec // i is small
		if weight := high ^ low; home == nil || weight > most {
			home, most = m, weight
		}
	}
	return home
}
