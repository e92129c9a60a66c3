package pkcs11

import (
	"context"
	"fmt"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

var _ hsm.Token = (*Engine)(nil)

// do runs work on a session of the pool, with k's handle if k is not nil. What
// a retry can cure is retried, once for each class of failure.
func (e *Engine) do(ctx context.Context, on hsm.Call, k *hsm.Key, w *work) ([]byte, error) {
	timeout := e.cfg.CallTimeout
	if w.slow {
		timeout = e.cfg.GenerateTimeout
	}
	limit := e.cfg.Clock().Add(timeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if int(on.Class) >= classCount {
		on.Class = hsm.Interactive
	}
	if k != nil {
		e.learn(ctx, k)
	}
	var retried uint
	for {
		if ctx.Err() != nil {
			return nil, lateError(ctx)
		}
		out, c, err := e.try(ctx, on, k, w, limit)
		if err == nil || c == classAnswer {
			return out, err
		}
		repaired := e.noticed(c)
		if !classes[c].retry || retried&(1<<c) != 0 {
			return nil, answer(err)
		}
		retried |= 1 << c
		if repaired != nil {
			select {
			case <-repaired:
			case <-ctx.Done():
				return nil, answer(err)
			}
		}
	}
}

// try runs the work once. limit is when the engine gives it up, whatever ctx allows.
func (e *Engine) try(ctx context.Context, on hsm.Call, k *hsm.Key, w *work, limit time.Time) ([]byte, class, error) {
	if err := e.admit(); err != nil {
		return nil, classAnswer, err
	}
	var en *entry
	if k != nil {
		var err error
		if en, err = e.handles.get(ctx, k, w.part); err != nil {
			return nil, classOf(err, false), err
		}
	}
	s, err := e.pool.get(ctx, on)
	if err != nil {
		if en != nil {
			en.release()
		}
		return nil, classOf(err, false), err
	}
	if ctx.Err() != nil { // while waiting; the session is as good as before
		s.entry = en
		e.settle(s, on.Class, classOK)
		return nil, classAnswer, fmt.Errorf("%w: %w", hsm.ErrBusy, context.Cause(ctx))
	}
	if err := e.tooMuchStuck(); err != nil { // since it began to wait
		s.entry = en
		e.settle(s, on.Class, classOK)
		return nil, classAnswer, err
	}
	if !s.begin(w, en) {
		e.settle(s, on.Class, classSession)
		return nil, classSession, errStale
	}
	select {
	case o := <-s.done:
		return e.conclude(s, on.Class, o)
	case <-ctx.Done():
	}
	patience := e.remaining(ctx)
	if w.slow { // a caller in a hurry is no sign that the token hangs
		patience = limit.Sub(e.cfg.Clock())
	}
	if !expired(ctx) || w.slow && patience > 0 {
		return nil, classAnswer, e.leaveBehind(ctx, s, on.Class, patience)
	}
	if !s.abandon() {
		return e.conclude(s, on.Class, <-s.done)
	}
	e.pool.put(nil, on.Class)
	return nil, classAnswer, lateError(ctx)
}

// admit fails fast where the token is away or too many calls hang in it.
func (e *Engine) admit() error {
	if err := e.repair.admit(); err != nil {
		return err
	}
	return e.tooMuchStuck()
}

// conclude gives the session back after a call that has returned.
func (e *Engine) conclude(s *session, on hsm.Class, o outcome) ([]byte, class, error) {
	c := classOf(o.err, s.entry != nil)
	if c == classObject && s.entry != nil {
		s.entry.evict()
	}
	e.settle(s, on, c)
	return o.out, c, o.err
}

func (e *Engine) settle(s *session, on hsm.Class, c class) {
	s.releaseEntry()
	if classes[c].keepsSession {
		e.pool.put(s, on)
		return
	}
	e.pool.discard(s, on)
}

// leaveBehind lets a call run on, as long as patience lasts, whose caller went
// away before the deadline: clients that hang up must not cost sessions. Its
// result is thrown away, and it keeps its place until it returns.
func (e *Engine) leaveBehind(ctx context.Context, s *session, on hsm.Class, patience time.Duration) error {
	wait := func() {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		var o outcome
		select {
		case o = <-s.done:
		case <-timer.C:
			if s.abandon() {
				e.pool.put(nil, on)
				return
			}
			o = <-s.done
		}
		clear(o.out)
		_, c, _ := e.conclude(s, on, o)
		e.noticed(c)
	}
	if !e.spawn(wait) {
		wait()
	}
	return lateError(ctx)
}

// Encrypt encrypts under a key. See [hsm.Token].
func (e *Engine) Encrypt(ctx context.Context, on hsm.Call, k *hsm.Key, plaintext, aad []byte) (hsm.Ciphertext, error) {
	if err := tooLong(plaintext, aad); err != nil {
		return hsm.Ciphertext{}, err
	}
	if k.Spec != keyspec.SymmetricDefault {
		return hsm.Ciphertext{}, e.notSymmetric(ctx, on, k)
	}
	w := work{mechanism: "gcm-encrypt", in: [3][]byte{plaintext, aad}, run: runEncrypt}
	out, err := e.do(ctx, on, k, &w)
	if err != nil {
		return hsm.Ciphertext{}, err
	}
	n := e.cfg.IV.ivLength()
	return hsm.Ciphertext{IV: out[:n:n], Data: out[n:]}, nil
}

// notSymmetric refuses a key that AES-GCM is not for, and says ErrBinding
// where its row is not honest.
func (e *Engine) notSymmetric(ctx context.Context, on hsm.Call, k *hsm.Key) error {
	if err := e.Present(ctx, on, k); err != nil {
		return err
	}
	return fmt.Errorf("%w: AES-GCM with a key of %s", hsm.ErrUnsupported, k.Spec)
}

func runEncrypt(s *session, key handle, in [3][]byte) ([]byte, error) {
	return s.encrypt(key, in[0], in[1])
}

// Decrypt opens a ciphertext. See [hsm.Token].
func (e *Engine) Decrypt(ctx context.Context, on hsm.Call, k *hsm.Key, c hsm.Ciphertext, aad []byte) ([]byte, error) {
	if (len(c.IV) != ivBytes && len(c.IV) != ivBytesLong) || len(c.Data) < tagBytes || tooLong(c.Data[tagBytes:], aad) != nil {
		return nil, hsm.ErrInvalidCiphertext
	}
	if k.Spec != keyspec.SymmetricDefault {
		return nil, e.notSymmetric(ctx, on, k)
	}
	w := work{mechanism: "gcm-decrypt", in: [3][]byte{c.IV, c.Data, aad}, run: runDecrypt}
	return e.do(ctx, on, k, &w)
}

func runDecrypt(s *session, key handle, in [3][]byte) ([]byte, error) {
	return s.decrypt(key, in[0], in[1], in[2])
}

// MaxRandomBytes is the most that Random gives at once.
const MaxRandomBytes = 1024

// Random returns n bytes from the token's random generator. See [hsm.Token].
func (e *Engine) Random(ctx context.Context, on hsm.Call, n int) ([]byte, error) {
	if n < 1 || n > MaxRandomBytes {
		return nil, fmt.Errorf("%w: %d random bytes", hsm.ErrUnsupported, n)
	}
	w := work{mechanism: "random", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) { return s.take(n) }}
	return e.do(ctx, on, nil, &w)
}

func tooLong(inputs ...[]byte) error {
	for _, in := range inputs {
		if len(in) > maxInputBytes {
			return fmt.Errorf("%w: input of %d bytes", hsm.ErrUnsupported, len(in))
		}
	}
	return nil
}
