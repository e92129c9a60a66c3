package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// RawLoop is the outcome of [Loop].
type RawLoop struct {
	Operations int
	Elapsed    time.Duration
	CPU        time.Duration // of the process, user and system, meanwhile
}

// PerSecond is the rate of the loop.
func (r RawLoop) PerSecond() float64 { return float64(r.Operations) / r.Elapsed.Seconds() }

// rawBatch is how many encryptions one C call of the loop makes.
const rawBatch = 64

// Loop measures what the token gives without an engine around it: the step of
// an algorithm that needs the secret or private key (for SYMMETRIC_DEFAULT
// AES-256-GCM encryptions of 32 bytes, in a loop in C) with one session key, in
// as many goroutines with a session each, until d has passed. It is what the
// engine's and the gateway's rates are held against. It has the token for
// itself: cfg needs neither service keys nor an engine that is open.
func Loop(ctx context.Context, cfg Config, spec keyspec.Spec, usage keyspec.Usage, a keyspec.Algorithm, goroutines int, d time.Duration) (RawLoop, error) {
	if goroutines < 1 {
		return RawLoop{}, errors.New("pkcs11: no goroutines")
	}
	cfg.ServiceKeys = nil
	cfg.MaxSessions = max(cfg.MaxSessions, goroutines)
	e, err := Open(ctx, cfg)
	if err != nil {
		return RawLoop{}, err
	}
	k := hsm.Key{KeyID: "measured", Spec: spec, Usage: usage}
	r, err := e.rawLoop(&k, a, goroutines, d)
	return r, errors.Join(err, e.Close())
}

func (e *Engine) rawLoop(k *hsm.Key, a keyspec.Algorithm, goroutines int, d time.Duration) (r RawLoop, err error) {
	t, err := typeOf(k)
	if err != nil {
		return r, err
	}
	anchor := e.anchorSession()
	key, err := anchor.make(&t, t.template, k)
	if err != nil {
		return r, err
	}
	defer anchor.destroyAfter(key, &err)
	step, err := e.rawStep(k, a)
	if err != nil {
		return r, err
	}
	type result struct {
		n   int
		err error
	}
	results := make(chan result, goroutines)
	start, cpu := e.cfg.Clock(), processCPU()
	for i := range goroutines {
		go func() {
			n, err := e.rawWorker(key, i, step, start.Add(d))
			results <- result{n, err}
		}()
	}
	for range goroutines {
		one := <-results
		r.Operations += one.n
		err = errors.Join(err, one.err)
	}
	r.Elapsed, r.CPU = e.cfg.Clock().Sub(start), processCPU()-cpu
	return r, err
}

// processCPU is the CPU time that this process has used.
func processCPU() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// rawWork makes some operations on a session and says how many.
type rawWork func(s *session, key handle) (int, error)

// rawStep is what the loop does: a worker's own.
func (e *Engine) rawStep(k *hsm.Key, a keyspec.Algorithm) (func(worker int) rawWork, error) {
	way, err := e.findings.way(k, k.Usage, a, secretPart, "")
	if err != nil {
		return nil, err
	}
	if k.Spec == keyspec.SymmetricDefault {
		return rawEncryption, nil
	}
	step, ok := rawSteps[k.Usage]
	if !ok {
		return nil, fmt.Errorf("%w: a raw loop for %s", hsm.ErrUnsupported, k.Usage)
	}
	one, err := step(k, a, way)
	return func(int) rawWork {
		return func(s *session, key handle) (int, error) { return 1, one(s, key) }
	}, err
}

// rawEncryption encrypts with IVs that no other worker uses.
func rawEncryption(worker int) rawWork {
	iv := [ivBytes]byte{byte(worker)}
	in, out := make([]byte, 32), make([]byte, 32+tagBytes)
	return func(s *session, key handle) (int, error) {
		return rawBatch, s.engine.module.lib.encryptLoop(s.handle, key, &iv, in, out, rawBatch)
	}
}

// rawSteps are single operations by usage.
var rawSteps = map[keyspec.Usage]func(k *hsm.Key, a keyspec.Algorithm, way string) (func(*session, handle) error, error){
	keyspec.GenerateVerifyMAC: rawMAC,
	keyspec.SignVerify:        rawSign,
	keyspec.EncryptDecrypt:    rawDecrypt,
	keyspec.KeyAgreement:      rawDerive,
}

func rawMAC(_ *hsm.Key, a keyspec.Algorithm, _ string) (func(*session, handle) error, error) {
	row, _ := keyspec.LookupAlgorithm(a)
	return func(s *session, key handle) error {
		_, err := s.hmac(key, row.Hash, canary[:])
		return err
	}, nil
}

func rawSign(k *hsm.Key, a keyspec.Algorithm, _ string) (func(*session, handle) error, error) {
	sig, err := newSignature(k.Spec, a, keyspec.Raw, canary[:])
	return func(s *session, key handle) error {
		_, err := s.sign(key, sig, sig.input)
		return err
	}, err
}

func rawDecrypt(k *hsm.Key, a keyspec.Algorithm, way string) (func(*session, handle) error, error) {
	row, _ := keyspec.LookupAlgorithm(a)
	public, err := publicOf(k)
	if err != nil {
		return nil, err
	}
	ciphertext, err := encryptHere(public, row.Hash, canary[:])
	return func(s *session, key handle) error {
		_, err := s.oaepDecrypt(key, way, row.Hash, ciphertext)
		return err
	}, err
}

// rawDerive agrees with the key itself.
func rawDerive(k *hsm.Key, _ keyspec.Algorithm, _ string) (func(*session, handle) error, error) {
	public, err := publicOf(k)
	if err != nil {
		return nil, err
	}
	return func(s *session, key handle) error {
		secret, err := s.derive(key, k.Spec, public.Point)
		clear(secret)
		return err
	}, nil
}

func (e *Engine) rawWorker(key handle, worker int, step func(worker int) rawWork, end time.Time) (n int, err error) {
	h, err := e.module.openSession(e.slot)
	if err != nil {
		return 0, err
	}
	s := &session{engine: e, handle: h, epoch: e.epoch.Load()}
	work := step(worker)
	for e.cfg.Clock().Before(end) {
		did, err := work(s, key)
		if err != nil {
			return n, fmt.Errorf("raw loop: %w", err)
		}
		n += did
	}
	return n, e.module.closeSession(h)
}
