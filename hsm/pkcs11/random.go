package pkcs11

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"sync"
)

// randomBlock is the length in bytes of the blocks that random bytes are
// compared in: two that are equal do not come by chance.
const randomBlock = 16

// errRandom: the token's random generator has failed. Nothing is made with what
// it gave; the class is device, so that the token has to come up anew.
var errRandom = errors.New("the token's random generator repeats itself; take the token out of service and have its vendor examine it")

// lastBlock is the last block that a random generator gave, as its hash: the
// block itself may be somebody's key. Safe for concurrent use.
type lastBlock struct {
	mu   sync.Mutex
	hash [sha256.Size]byte
}

// random fills out from the token's random generator. errRandom if what comes has
// one of the obvious faults: the same byte throughout, a block that comes twice,
// or the last block of this session's draw before or of the engine's again, as in
// the continuous test of FIPS 140-2, section 4.9.2. Out is then zeros.
func (s *session) random(out []byte) error {
	drawn := out
	if len(out)%randomBlock != 0 { // whole blocks only, the rest is thrown away
		drawn = make([]byte, (len(out)+randomBlock-1)/randomBlock*randomBlock)
		defer clear(drawn)
	}
	if err := s.engine.module.lib.random(s.handle, drawn); err != nil {
		return err
	}
	if repeats(drawn) || s.drawn.repeated(drawn) || s.engine.drawn.repeated(drawn) {
		clear(drawn)
		clear(out)
		return s.engine.failedRandom()
	}
	copy(out, drawn)
	return nil
}

// Random bytes for one key are taken from a stock that is drawn at once: with a
// token behind a network a call takes as long for a kilobyte as for a few bytes.
const (
	stockBytes = 1024
	maxFew     = 64 // the most that is taken from it
)

// take returns random bytes of the token's that nobody has had before.
func (s *session) take(n int) ([]byte, error) {
	if n > maxFew {
		out := make([]byte, n)
		return out, s.random(out)
	}
	if len(s.stock) < n {
		batch := make([]byte, stockBytes)
		if err := s.random(batch); err != nil {
			return nil, err
		}
		clear(s.stock)
		s.stock = batch
	}
	out := bytes.Clone(s.stock[:n])
	clear(s.stock[:n])
	s.stock = s.stock[n:]
	return out, nil
}

// failedRandom raises the alarm.
func (e *Engine) failedRandom() error {
	e.randomFaults.Add(1)
	e.cfg.Logger.Error("random generator of the token", "serial", e.serial, "error", errRandom)
	return errRandom
}

// repeats tells whether two blocks are equal, or all bytes of one.
func repeats(drawn []byte) bool {
	seen := make(map[[randomBlock]byte]bool, len(drawn)/randomBlock)
	for rest := drawn; len(rest) > 0; rest = rest[randomBlock:] {
		block := [randomBlock]byte(rest)
		if seen[block] || sameByte(block[:]) {
			return true
		}
		seen[block] = true
	}
	return false
}

// sameByte tells whether all bytes are equal.
func sameByte(b []byte) bool {
	var any byte
	for _, x := range b {
		any |= x ^ b[0]
	}
	return any == 0
}

// repeated tells whether the last block comes again, and keeps the new one.
func (l *lastBlock) repeated(drawn []byte) (again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.hash
	for rest := drawn; len(rest) > 0; rest = rest[randomBlock:] {
		l.hash = sha256.Sum256(rest[:randomBlock])
		again = again || subtle.ConstantTimeCompare(l.hash[:], last[:]) == 1
	}
	return again
}
