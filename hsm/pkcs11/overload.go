package pkcs11

import "time"

// Overload: when every call of a class has waited longer than longWait for as long
// as overloadAfter, there is more to do than the token can. Then only overloadQueue
// calls for each session wait, and what is accepted takes no longer than it must; a
// longer queue would add to everybody's time and nothing to what is done. It ends
// when a call finds a session free.
const (
	longWait      = 20 * time.Millisecond
	overloadAfter = 500 * time.Millisecond
	overloadQueue = 2
)

// overload tells too much work from a burst, which the queue is there for.
type overload struct {
	since    time.Time // of the first long wait after a short one; zero after that
	declared bool
}

// waited notes how long a call has waited for its session.
func (o *overload) waited(since, now time.Time) {
	switch {
	case o.declared:
	case now.Sub(since) < longWait:
		o.since = time.Time{}
	case o.since.IsZero():
		o.since = now
	default:
		o.declared = now.Sub(o.since) >= overloadAfter
	}
}
