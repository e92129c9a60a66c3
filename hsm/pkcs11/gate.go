package pkcs11

import (
	"sync"
	"time"
)

// gate is held for reading by every C call of an engine's sessions, and for
// writing by those that end the sessions under everybody. C_Finalize with a
// call in flight crashes the process: it wants the gates of all engines of the
// module closed.
type gate struct{ sync.RWMutex }

// gatePoll is how often it is looked whether the last call has returned.
const gatePoll = time.Millisecond

// close waits until no call is in flight and keeps new ones out. It is false,
// and the gate open, if a call has not returned within patience.
func (g *gate) close(patience time.Duration) bool { return poll(patience, g.TryLock) }

// poll waits until something is done; false if it is not within patience.
func poll(patience time.Duration, done func() bool) bool {
	if done() {
		return true
	}
	ticker := time.NewTicker(gatePoll)
	defer ticker.Stop()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case <-ticker.C:
			if done() {
				return true
			}
		case <-timeout.C:
			return false
		}
	}
}
