package pkcs11

import (
	"time"

	"kmsgate/hsm"
)

// Background work while clients are there: they are until none has had or
// waited for a session for the length of lull. It then takes no more than one
// part in backgroundPart of the token's time, and of its sessions at once.
const (
	backgroundPart = 10
	lull           = 100 * time.Millisecond
)

// background keeps background work to its share of the token's time, counted
// in sessions times time. What it takes while clients are there is a debt, which
// the time of all sessions pays off at a tenth; none of it begins before that is
// done, so that a long call is followed by a rest nine times as long. Time with
// clients that background work left unused is kept for it, as much as a lull has.
// What it takes while no client is there is free. Guarded by the pool's mu.
type background struct {
	counted time.Time     // until when the rest is counted
	client  time.Time     // when a client was last there
	debt    time.Duration // session time to be paid off; less than zero if some is left
	taken   time.Duration // session time that background work took while clients were there
	shared  time.Duration // session time that there was meanwhile
	wake    *time.Timer   // looks again when nothing else does; nil if it is not set
}

// clientsLocked tells whether a client has a session or waits for one.
func (p *pool) clientsLocked() bool {
	return p.busy[hsm.Interactive]+p.busy[hsm.Generation]+p.queues[hsm.Interactive].length+p.queues[hsm.Generation].length > 0
}

// countLocked counts the time since it was last called. It is called before
// anything changes that it counts by.
func (p *pool) countLocked() {
	b, now := &p.background, p.engine.cfg.Clock()
	elapsed := max(now.Sub(b.counted), 0)
	with := elapsed // of it, the time with clients
	if p.clientsLocked() {
		b.client = now
	} else {
		with = min(max(b.client.Add(lull).Sub(b.counted), 0), elapsed)
	}
	b.counted = now
	taken, shared := time.Duration(p.busy[hsm.Background])*with, time.Duration(p.max)*with
	b.taken += taken
	b.shared += shared
	b.debt = max(b.debt+taken-shared/backgroundPart, -time.Duration(p.max)*lull/backgroundPart)
	if b.debt > 0 {
		b.debt = max(b.debt-time.Duration(p.max)*(elapsed-with)/backgroundPart, 0)
	}
}

// mayStartBackground tells whether background work may have one session more,
// of those that are free.
func (p *pool) mayStartBackground() bool {
	b := &p.background
	return p.unwantedIn() <= 0 || b.debt <= 0 && p.busy[hsm.Background] < (p.max+backgroundPart-1)/backgroundPart
}

// unwantedIn is how long it is until background work may have all sessions if
// no client comes.
func (p *pool) unwantedIn() time.Duration {
	if p.clientsLocked() {
		return lull
	}
	return p.background.client.Add(lull).Sub(p.background.counted)
}

// wakeLocked has the pool look again at background work that waits for the lull
// or until its debt is paid off: nobody else may come to do it.
func (p *pool) wakeLocked() {
	b := &p.background
	after := p.unwantedIn()
	if b.wake != nil || p.queues[hsm.Background].length == 0 || after <= 0 {
		return
	}
	if b.debt > 0 {
		after = min(after, b.debt*backgroundPart/time.Duration(p.max))
	}
	b.wake = time.AfterFunc(max(after, time.Millisecond), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		b.wake = nil
		p.countLocked()
		p.dispatchLocked()
	})
}
