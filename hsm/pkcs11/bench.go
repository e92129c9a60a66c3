package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// RawLoop is the outcome of [RawEncryptLoop].
type RawLoop struct {
	Operations int
	Elapsed    time.Duration
}

// PerSecond is the rate of the loop.
func (r RawLoop) PerSecond() float64 { return float64(r.Operations) / r.Elapsed.Seconds() }

// rawBatch is how many encryptions one C call of the loop makes.
const rawBatch = 64

// RawEncryptLoop measures what the token gives without an engine around it:
// AES-256-GCM encryptions of 32 bytes with a session key, in as many goroutines
// with a session each, in a loop in C, until d has passed. It is what the
// engine's and the gateway's rates are held against. It has the token for
// itself: cfg needs neither service keys nor an engine that is open.
func RawEncryptLoop(ctx context.Context, cfg Config, goroutines int, d time.Duration) (RawLoop, error) {
	if goroutines < 1 {
		return RawLoop{}, errors.New("pkcs11: no goroutines")
	}
	cfg.ServiceKeys = nil
	cfg.MaxSessions = max(cfg.MaxSessions, goroutines)
	e, err := Open(ctx, cfg)
	if err != nil {
		return RawLoop{}, err
	}
	r, err := e.rawLoop(goroutines, d)
	return r, errors.Join(err, e.Close())
}

func (e *Engine) rawLoop(goroutines int, d time.Duration) (RawLoop, error) {
	anchor := e.anchorSession()
	key, err := e.module.lib.generate(anchor.handle, mechAESKeyGen, keyTypeAES)
	if err != nil {
		return RawLoop{}, err
	}
	type result struct {
		n   int
		err error
	}
	results := make(chan result, goroutines)
	start := e.cfg.Clock()
	for i := range goroutines {
		go func() {
			n, err := e.rawWorker(key, byte(i), start.Add(d))
			results <- result{n, err}
		}()
	}
	var r RawLoop
	for range goroutines {
		one := <-results
		r.Operations += one.n
		err = errors.Join(err, one.err)
	}
	r.Elapsed = e.cfg.Clock().Sub(start)
	anchor.destroyAfter(key, &err)
	return r, err
}

func (e *Engine) rawWorker(key handle, id byte, end time.Time) (n int, err error) {
	session, err := e.module.openSession(e.slot)
	if err != nil {
		return 0, err
	}
	iv := [ivBytes]byte{id}
	in, out := make([]byte, 32), make([]byte, 32+tagBytes)
	for e.cfg.Clock().Before(end) {
		if err := e.module.lib.encryptLoop(session, key, &iv, in, out, rawBatch); err != nil {
			return n, fmt.Errorf("raw loop: %w", err)
		}
		n += rawBatch
	}
	return n, e.module.closeSession(session)
}
