package softhsm

import (
	"math"
	"sync/atomic"
	"syscall"
	"time"
)

// Length is what a module makes of the length of an output: a signature, a
// ciphertext, the value of an attribute, a number of handles.
type Length uint64

// Lengths for [Fault].
const (
	TooShort Length = 1 // by one
	TooLong  Length = 2 // by one
	Zero     Length = 3
	Huge     Length = 4 // one more than there is room for
)

// Corruption is what a module makes of an output: bytes, or a handle.
type Corruption uint64

// Corruptions for [Fault].
const (
	Flipped  Corruption = 1 // one bit in its middle
	Zeros    Corruption = 2
	Constant Corruption = 3 // the same byte throughout
)

// Fault is what happens to calls of one function. Several things can happen to
// one call.
type Fault struct {
	Code    uint           // is returned instead of making the call
	After   bool           // the call is made all the same, before the code is returned
	Delay   time.Duration  // before the call
	Signal  syscall.Signal // that the process dies of; SIGSEGV is made by an access to nowhere
	Length  Length         // of the output of a call that has succeeded
	Corrupt Corruption     // of the output of a call that has succeeded

	Times   uint64 // how many calls it happens to; zero: all until it is cleared
	Every   uint64 // it happens to one in so many calls; zero: to each
	Slot    uint   // it happens to calls for this slot only; zero: for any
	Session uint   // it happens to calls with this session only; zero: with any
}

// Inject makes a fault happen to calls of a function, instead of an earlier one.
func (s *Shim) Inject(f Function, fault Fault) {
	c := &s.control.faults[f]
	atomic.StoreUint64(&c.times, 0) // nothing happens while it is half written
	var after uint64
	if fault.After {
		after = 1
	}
	for place, v := range map[*uint64]uint64{
		&c.every: fault.Every, &c.seen: 0, &c.slot: uint64(fault.Slot), &c.session: uint64(fault.Session),
		&c.code: uint64(fault.Code), &c.after: after, &c.delay: uint64(fault.Delay / time.Microsecond),
		&c.signal: uint64(fault.Signal), &c.length: uint64(fault.Length), &c.corrupt: uint64(fault.Corrupt),
	} {
		atomic.StoreUint64(place, v)
	}
	times := fault.Times
	if times == 0 {
		times = math.MaxUint64
	}
	atomic.StoreUint64(&c.times, times)
}

// Fail makes the next calls of a function return a code instead.
func (s *Shim) Fail(f Function, code uint, times uint64) {
	if times == 0 {
		s.Clear(f)
		return
	}
	s.Inject(f, Fault{Code: code, Times: times})
}

// Clear ends the fault of a function.
func (s *Shim) Clear(f Function) { atomic.StoreUint64(&s.control.faults[f].times, 0) }

// Hang makes calls of a function hang until it is called with false.
func (s *Shim) Hang(f Function, on bool) {
	var v uint64
	if on {
		v = 1
	}
	atomic.StoreUint64(&s.control.hang[f], v)
}

// Die makes every call fail with CKR_DEVICE_ERROR until C_Finalize is called,
// as a client library does that has lost its HSM.
func (s *Shim) Die() { atomic.StoreUint64(&s.control.dead, 1) }

// DropSessions closes all sessions: their handles are not valid any more, their
// objects are gone, and nobody is logged in.
func (s *Shim) DropSessions() { atomic.AddUint64(&s.control.drops, 1) }

// LoseLogin logs everybody out: what needs a login is refused with
// CKR_USER_NOT_LOGGED_IN until C_Login, and private session objects are gone.
func (s *Shim) LoseLogin() { atomic.AddUint64(&s.control.logouts, 1) }

// AllSlots stands for the slots of all tokens, for [Shim.Remove].
const AllSlots = math.MaxUint

// Remove takes the token out of a slot, or all of them out of theirs: its sessions
// are closed, it is not in the list of slots with a token, and what asks for it
// is refused with CKR_TOKEN_NOT_PRESENT.
func (s *Shim) Remove(slot uint) { atomic.StoreUint64(&s.control.removed, uint64(slot)) }

// PutBack ends what Remove did.
func (s *Shim) PutBack() { s.Remove(0) }

// Renumber adds an offset to the numbers of all slots.
func (s *Shim) Renumber(offset uint) { atomic.StoreUint64(&s.control.renumbered, uint64(offset)) }

// Heal ends all faults. What was dropped or lost stays so, and slots keep their numbers.
func (s *Shim) Heal() {
	for f := range Function(functionCount) {
		s.Clear(f)
		s.Hang(f, false)
	}
	atomic.StoreUint64(&s.control.dead, 0)
	s.AddTokenFlags(0)
	s.PutBack()
}

// AddTokenFlags adds these flags to what C_GetTokenInfo returns, instead of
// those of the last call.
func (s *Shim) AddTokenFlags(flags uint) { atomic.StoreUint64(&s.control.tokenFlags, uint64(flags)) }

// Update makes of the tokens those of another firmware: its minor version is higher
// by that much, and a mechanism, if it is not zero, is not listed any more.
func (s *Shim) Update(versions, without uint) {
	atomic.StoreUint64(&s.control.firmware, uint64(versions))
	atomic.StoreUint64(&s.control.hidden, uint64(without))
}
