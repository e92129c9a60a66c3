package pkcs11

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/softhsm"
)

// newShim puts a shim in front of the module of a configuration.
func newShim(t testing.TB, cfg *Config) *softhsm.Shim {
	t.Helper()
	shim, err := softhsm.NewShim(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shim.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg.Module = shim.Module
	return shim
}

// openWithShim opens an engine with service keys behind a shim.
func openWithShim(t testing.TB, change func(*Config)) (*Engine, *softhsm.Shim) {
	t.Helper()
	var shim *softhsm.Shim
	e := openWithKeys(t, func(cfg *Config) {
		shim = newShim(t, cfg)
		if change != nil {
			change(cfg)
		}
	})
	return e, shim
}

// encryptWorks tells whether the engine serves again, within a generous time.
func encryptWorks(t testing.TB, e *Engine, k *hsm.Key) {
	t.Helper()
	var err error
	for range 1000 {
		if _, err = e.Encrypt(t.Context(), client, k, []byte("x"), nil); err == nil {
			return
		}
		if !errors.Is(err, hsm.ErrUnavailable) && !errors.Is(err, hsm.ErrBusy) && !errors.Is(err, hsm.ErrDeadline) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("Encrypt = %v long after the fault, want nil", err)
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for range 1000 {
		if holds() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func TestHungCallIsAnsweredAtItsDeadlineAndItsSessionPoisoned(t *testing.T) {
	e, shim := openWithShim(t, func(c *Config) { c.MaxSessions = 4 })
	k := generate(t, e, "k")
	encryptWorks(t, e, k)
	shim.Hang(softhsm.Encrypt, true)
	if _, err := e.Encrypt(within(t, 50*time.Millisecond), client, k, []byte("x"), nil); !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("Encrypt that hangs = %v, want %v", err, hsm.ErrDeadline)
	}
	if s := e.Stats(); s.Poisoned != 1 || s.Stuck != 1 || s.SessionsBusy != 0 {
		t.Errorf("Stats = %+v, want one session poisoned and stuck, none busy", s)
	}
	if _, err := e.Random(t.Context(), client, 8); err != nil {
		t.Errorf("Random beside a stuck call = %v", err)
	}
	shim.Hang(softhsm.Encrypt, false)
	eventually(t, "the stuck call returns", func() bool { return e.Stats().Stuck == 0 })
	encryptWorks(t, e, k)
}

func TestStuckCallsAreBounded(t *testing.T) {
	e, shim := openWithShim(t, func(c *Config) { c.MaxSessions = 4 })
	k := generate(t, e, "k")
	encryptWorks(t, e, k)
	start := time.Now()
	shim.Hang(softhsm.Encrypt, true)
	for i := range 10 {
		_, err := e.Encrypt(within(t, 20*time.Millisecond), client, k, []byte("x"), nil)
		want := hsm.ErrDeadline
		if i > int(e.maxStuck) {
			want = hsm.ErrUnavailable
		}
		if !errors.Is(err, want) {
			t.Errorf("hanging Encrypt %d = %v, want %v", i, err, want)
		}
	}
	if err := e.Check(within(t, time.Second)); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Check = %v, want %v", err, hsm.ErrUnavailable)
	}
	if since := e.Stats().AwaySince; since.Before(start) || since.After(time.Now()) {
		t.Errorf("AwaySince = %v, want a time after %v", since, start)
	}
	shim.Hang(softhsm.Encrypt, false)
	encryptWorks(t, e, k)
	if since := e.Stats().AwaySince; !since.IsZero() {
		t.Errorf("AwaySince = %v of a token that serves, want none", since)
	}
}

func TestCallerWhoGoesAwayCostsNoSession(t *testing.T) {
	e, shim := openWithShim(t, func(c *Config) { c.MaxSessions = 2 })
	k := generate(t, e, "k")
	encryptWorks(t, e, k)
	shim.Hang(softhsm.Encrypt, true)
	before := shim.Calls(softhsm.Encrypt)
	ctx, cancel := newCancel(t)
	done := make(chan error)
	go func() {
		_, err := e.Encrypt(ctx, client, k, []byte("x"), nil)
		done <- err
	}()
	eventually(t, "the call hangs", func() bool { return shim.Calls(softhsm.Encrypt) > before })
	cancel()
	if err := <-done; !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("cancelled Encrypt = %v, want %v", err, hsm.ErrDeadline)
	}
	shim.Hang(softhsm.Encrypt, false)
	eventually(t, "the session is free again", func() bool { return e.Stats().SessionsBusy == 0 })
	if s := e.Stats(); s.Poisoned != 0 {
		t.Errorf("Poisoned = %d, want 0", s.Poisoned)
	}
	encryptWorks(t, e, k)
}

func TestHungUnwrapCostsOnlyItsOwnersShare(t *testing.T) {
	e, shim := openWithShim(t, func(c *Config) {
		c.MaxSessions, c.OwnerSessions, c.CallTimeout = 4, 2, time.Second
	})
	var keys [2]*hsm.Key // one for each owner
	for i := range keys {
		k := newKey("k")
		k.MaterialID[3] = k.MaterialID[3]&^1 | byte(i)
		made, err := e.Generate(t.Context(), client, k)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = &made
	}
	encryptWorks(t, e, keys[1])
	shim.Hang(softhsm.UnwrapKey, true)
	if _, err := e.Encrypt(t.Context(), client, keys[0], []byte("x"), nil); !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("Encrypt whose unwrap hangs = %v, want %v", err, hsm.ErrDeadline)
	}
	if _, err := e.Encrypt(t.Context(), client, keys[1], []byte("x"), nil); err != nil {
		t.Errorf("Encrypt with a cached key of the other owner = %v", err)
	}
	eventually(t, "the owner's session is poisoned", func() bool { return e.Stats().Poisoned == 1 })
	shim.Hang(softhsm.UnwrapKey, false)
	encryptWorks(t, e, keys[0])
	eventually(t, "the stuck call returns", func() bool { return e.Stats().Stuck == 0 })
}

// TestReturnCodes injects each class of code once into Encrypt, and says what
// the caller sees and whether the next call works.
func TestReturnCodes(t *testing.T) {
	e, shim := openWithShim(t, func(c *Config) { c.ReturnCodes = map[uint]string{0x80000041: "busy"} })
	k := generate(t, e, "k")
	for _, c := range []struct {
		function softhsm.Function
		code     uint
		times    uint64
		want     error
	}{
		{softhsm.Encrypt, pkcs11.CKR_SESSION_HANDLE_INVALID, 1, nil},
		{softhsm.Encrypt, pkcs11.CKR_SESSION_HANDLE_INVALID, 2, hsm.ErrUnavailable},
		{softhsm.Encrypt, pkcs11.CKR_OPERATION_ACTIVE, 1, nil},
		{softhsm.EncryptInit, pkcs11.CKR_KEY_HANDLE_INVALID, 1, nil},
		{softhsm.EncryptInit, pkcs11.CKR_OBJECT_HANDLE_INVALID, 1, nil},
		{softhsm.EncryptInit, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, 1, nil},
		{softhsm.EncryptInit, pkcs11.CKR_MECHANISM_INVALID, 1, nil},
		{softhsm.EncryptInit, pkcs11.CKR_MECHANISM_PARAM_INVALID, 1, hsm.ErrUnsupported},
		{softhsm.EncryptInit, pkcs11.CKR_USER_NOT_LOGGED_IN, 1, nil},
		{softhsm.Encrypt, pkcs11.CKR_DEVICE_ERROR, 1, hsm.ErrUnavailable},
		{softhsm.Encrypt, 0x80000041, 1, hsm.ErrBusy},
		{softhsm.Encrypt, 0x8BADC0DE, 1, hsm.ErrUnavailable},
		{softhsm.Encrypt, pkcs11.CKR_HOST_MEMORY, 1, hsm.ErrBusy},
		{softhsm.UnwrapKey, pkcs11.CKR_DEVICE_ERROR, 1, hsm.ErrUnavailable},
		{softhsm.Sign, pkcs11.CKR_SESSION_CLOSED, 1, nil},
	} {
		eventually(t, "the repair of the case before has ended", func() bool {
			e.repair.mu.Lock()
			defer e.repair.mu.Unlock()
			return e.repair.running == nil
		})
		e.handles.reset()
		shim.Fail(c.function, c.code, c.times)
		_, err := e.Encrypt(t.Context(), client, k, []byte("x"), nil)
		if !errors.Is(err, c.want) {
			t.Errorf("Encrypt with %s from function %d, %d times = %v, want %v", returnCode(c.code), c.function, c.times, err, c.want)
		}
		shim.Fail(c.function, 0, 0)
		encryptWorks(t, e, k)
	}
}

func TestAmbiguousDecryptErrorIsTheTokensIfTheSessionIsBroken(t *testing.T) {
	e, shim := openWithShim(t, nil)
	k := generate(t, e, "k")
	c, err := e.Encrypt(t.Context(), client, k, []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	shim.Fail(softhsm.Decrypt, pkcs11.CKR_GENERAL_ERROR, 1)
	shim.Fail(softhsm.GenerateRandom, pkcs11.CKR_DEVICE_ERROR, 1)
	if _, err := e.Decrypt(t.Context(), client, k, c, nil); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Decrypt while the token is in trouble = %v, want %v", err, hsm.ErrUnavailable)
	}
	encryptWorks(t, e, k)
}

// TestNewWordsForBadDataAreNoTrouble: a token may refuse data with a code that it
// did not give at the start; what is good is not refused for it.
func TestNewWordsForBadDataAreNoTrouble(t *testing.T) {
	e, shim := openWithShim(t, nil)
	signs, opens := makeKey(t, e, keyspec.RSA2048, keyspec.SignVerify), makeKey(t, e, keyspec.RSA2048, keyspec.EncryptDecrypt)
	good, err := e.Sign(t.Context(), client, signs, keyspec.RSASSAPSSSHA256, keyspec.Raw, []byte("x"))
	must(t, err)
	sealed, err := e.EncryptAsymmetric(t.Context(), client, opens, keyspec.RSAESOAEPSHA1, []byte("x"))
	must(t, err)
	verify := func(message string) error {
		return e.Verify(t.Context(), client, signs, keyspec.RSASSAPSSSHA256, keyspec.Raw, []byte(message), good)
	}
	decrypt := func(ciphertext []byte) error {
		_, err := e.DecryptAsymmetric(t.Context(), client, opens, keyspec.RSAESOAEPSHA1, ciphertext)
		return err
	}
	must(t, verify("x"))
	must(t, decrypt(sealed))
	if len(e.findings.badOAEP) == 0 {
		t.Error("nothing was learned of ciphertexts that do not open")
	}
	e.findings.badOAEP = nil // SoftHSM says CKR_GENERAL_ERROR
	for _, code := range []uint{pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_ARGUMENTS_BAD, 0x8BADC0DE} {
		shim.Fail(softhsm.VerifyInit, code, 1)
		if err := verify("y"); !errors.Is(err, hsm.ErrInvalidSignature) {
			t.Errorf("Verify of another message, refused with 0x%X = %v, want %v", code, err, hsm.ErrInvalidSignature)
		}
		if err := decrypt(make([]byte, 256)); !errors.Is(err, hsm.ErrInvalidCiphertext) {
			t.Errorf("DecryptAsymmetric of zeros = %v, want %v", err, hsm.ErrInvalidCiphertext)
		}
		shim.Fail(softhsm.VerifyInit, code, 1)
		must(t, verify("x"))
		shim.Fail(softhsm.DecryptInit, code, 1)
		must(t, decrypt(sealed))
	}
	stillServes(t, e, 1)
	for what, trouble := range map[string]struct {
		function softhsm.Function
		do       func() error
	}{
		"Verify":            {softhsm.VerifyInit, func() error { return verify("x") }},
		"DecryptAsymmetric": {softhsm.DecryptInit, func() error { return decrypt(sealed) }},
	} {
		eventually(t, "no repair runs", func() bool {
			e.repair.mu.Lock()
			defer e.repair.mu.Unlock()
			return e.repair.running == nil
		})
		shim.Fail(trouble.function, pkcs11.CKR_DEVICE_ERROR, 2)
		if err := trouble.do(); !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("%s of what is good by a token in trouble = %v, want %v", what, err, hsm.ErrUnavailable)
		}
		shim.Fail(trouble.function, 0, 0)
	}
	eventually(t, "the token serves again", func() bool { return verify("x") == nil })
}

func TestFatalCodeTakesTheTokenOut(t *testing.T) {
	e, shim := openWithShim(t, func(c *Config) { c.ReturnCodes = map[uint]string{0x80000076: "fatal"} })
	k := generate(t, e, "k")
	shim.Fail(softhsm.Encrypt, 0x80000076, 1)
	for range 2 {
		if _, err := e.Encrypt(t.Context(), client, k, []byte("x"), nil); !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("Encrypt = %v, want %v", err, hsm.ErrUnavailable)
		}
	}
	if s := e.Stats(); s.Serving || s.AwaySince.IsZero() || time.Since(s.AwaySince) > time.Minute {
		t.Errorf("after a fatal code: serving %v, away since %v", s.Serving, s.AwaySince)
	}
}

func TestEngineReconnectsWhenTheTokenIsLostUnderLoad(t *testing.T) {
	e, shim := openWithShim(t, nil)
	k := generate(t, e, "k")
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				c, err := e.Encrypt(t.Context(), client, k, []byte("hello"), nil)
				if err == nil {
					_, err = e.Decrypt(t.Context(), client, k, c, nil)
				}
				if err != nil && !errors.Is(err, hsm.ErrUnavailable) && !errors.Is(err, hsm.ErrBusy) {
					t.Errorf("call during an outage = %v, want %v", err, hsm.ErrUnavailable)
				}
			}
		})
	}
	for want := uint64(2); want <= 4; want++ {
		before := e.Stats().Epoch
		time.Sleep(20 * time.Millisecond)
		shim.Die()
		eventually(t, "a new epoch", func() bool { return e.Stats().Epoch > before && e.Stats().Serving })
		encryptWorks(t, e, k)
	}
	stop.Store(true)
	wg.Wait()
	if err := e.Check(t.Context()); err != nil {
		t.Errorf("Check after three reconnects = %v", err)
	}
}

func TestCloseUnderLoadFinalizesWithNoCallInFlight(t *testing.T) {
	tok := newToken(t)
	rows := serviceKeyRows(testStore, 1)
	for range 5 {
		cfg := configFor(tok)
		e, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if rows, err = e.CreateServiceKeys(t.Context(), rows); err != nil {
			t.Fatal(err)
		}
		k := generate(t, e, "k")
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for {
					if _, err := e.Encrypt(t.Context(), client, k, []byte("x"), nil); errors.Is(err, hsm.ErrUnavailable) {
						return
					} else if err != nil {
						t.Errorf("Encrypt while closing = %v, want %v", err, hsm.ErrUnavailable)
						return
					}
				}
			})
		}
		time.Sleep(10 * time.Millisecond)
		if err := e.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		wg.Wait()
	}
}

func TestCloseLeavesAModuleWithAHungCallAlone(t *testing.T) {
	e, shim := openWithShim(t, func(c *Config) { c.QuiesceTimeout = 20 * time.Millisecond })
	k := generate(t, e, "k")
	encryptWorks(t, e, k)
	shim.Hang(softhsm.Encrypt, true)
	if _, err := e.Encrypt(within(t, 10*time.Millisecond), client, k, []byte("x"), nil); !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("Encrypt = %v, want %v", err, hsm.ErrDeadline)
	}
	if err := e.rebuild(true); !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("reconnect with a call in flight = %v, want %v", err, hsm.ErrDeadline)
	}
	if n := shim.Calls(softhsm.Finalize); n != 0 {
		t.Errorf("C_Finalize was called %d times with a call in flight", n)
	}
	shim.Hang(softhsm.Encrypt, false)
}

func TestTokensThatMakeTheIV(t *testing.T) {
	for name, c := range map[string]struct {
		mode   IVMode
		shim   uint
		length int
	}{
		"written":  {IVWritten, softhsm.TokenWritesIV, 12},
		"appended": {IVAppended, softhsm.TokenAppendsIV, 16},
	} {
		t.Run(name, func(t *testing.T) {
			e := openWithIVs(t, c.mode, c.shim)
			k := generate(t, e, "k")
			seen := map[string]bool{}
			for range 50 {
				ct, err := e.Encrypt(t.Context(), client, k, []byte("hello"), []byte("aad"))
				if err != nil {
					t.Fatal(err)
				}
				if len(ct.IV) != c.length || len(ct.Data) != 5+16 || seen[string(ct.IV)] {
					t.Fatalf("Encrypt = IV %x, %d bytes; want a fresh IV of %d", ct.IV, len(ct.Data), c.length)
				}
				seen[string(ct.IV)] = true
				if p, err := e.Decrypt(t.Context(), client, k, ct, []byte("aad")); err != nil || string(p) != "hello" {
					t.Fatalf("Decrypt = %q, %v", p, err)
				}
			}
		})
	}
	t.Run("not as configured", func(t *testing.T) {
		cfg := configFor(newToken(t))
		shim := newShim(t, &cfg)
		for _, c := range []struct {
			mode IVMode
			shim uint
		}{{IVGiven, softhsm.TokenAppendsIV}, {IVWritten, softhsm.CallerMakesIV}, {IVAppended, softhsm.CallerMakesIV}, {IVGiven, softhsm.TokenWritesIV}} {
			shim.MakeIVs(c.shim)
			cfg.IV = c.mode
			if e, err := Open(t.Context(), cfg); err == nil {
				t.Errorf("Open with IV mode %d on a token of mode %d = nil, want an error", c.mode, c.shim)
				e.Close()
			}
		}
	})
}

func openWithIVs(t *testing.T, mode IVMode, shimMode uint) *Engine {
	return openWithKeys(t, func(c *Config) {
		newShim(t, c).MakeIVs(shimMode)
		c.IV = mode
	})
}

func TestRepeatedDeviceErrorsReconnectATokenThatSeemsWell(t *testing.T) {
	e, shim := openWithShim(t, nil)
	k := generate(t, e, "k")
	encryptWorks(t, e, k)
	for range 3 * falseAlarms {
		shim.Fail(softhsm.Encrypt, pkcs11.CKR_DEVICE_ERROR, 1)
		_, _ = e.Encrypt(t.Context(), client, k, []byte("x"), nil) // meets it
		eventually(t, "the repair ends", func() bool {
			e.repair.mu.Lock()
			defer e.repair.mu.Unlock()
			return e.repair.running == nil
		})
	}
	if n := shim.Calls(softhsm.Finalize); n != 1 {
		t.Errorf("C_Finalize was called %d times after many such errors, want once a minute at most", n)
	}
	encryptWorks(t, e, k)
}

func TestOpenGivesUpAtItsDeadline(t *testing.T) {
	cfg := configFor(newToken(t))
	shim := newShim(t, &cfg)
	shim.Hang(softhsm.Login, true)
	if _, err := Open(within(t, 50*time.Millisecond), cfg); !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("Open of a token that hangs = %v, want %v", err, hsm.ErrDeadline)
	}
	shim.Hang(softhsm.Login, false)
	eventually(t, "the engine that came up too late is closed", func() bool { return shim.Calls(softhsm.Finalize) == 1 })
}
