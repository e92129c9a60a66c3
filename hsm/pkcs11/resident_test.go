package pkcs11

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/softhsm"
)

// residentsOf are the KMS keys' objects in the token.
func residentsOf(t *testing.T, e *Engine) (residents []Resident) {
	t.Helper()
	must(t, e.Residents(t.Context(), client, func(r Resident) error {
		residents = append(residents, r)
		return nil
	}))
	return residents
}

// openResident opens an engine whose new keys stay in the token, behind a shim.
func openResident(t *testing.T, change func(*Config)) (*Engine, *softhsm.Shim) {
	t.Helper()
	return openWithShim(t, func(c *Config) {
		c.Resident = []string{testStore}
		if change != nil {
			change(c)
		}
	})
}

func TestResidentsAreTheKeysAndNothingElse(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.Resident = []string{testStore} })
	keys := map[string]*hsm.Key{}
	for _, spec := range []keyspec.Spec{keyspec.HMAC256, keyspec.ECCNISTP256, keyspec.RSA2048} {
		row, _ := keyspec.Lookup(spec)
		keys[residentLabel+string(spec)] = makeKey(t, e, spec, row.Usages()[0])
	}
	kinds := map[string]string{
		residentLabel + "HMAC_256": kindGeneric, residentLabel + "ECC_NIST_P256": kindEC, residentLabel + "RSA_2048": kindRSA,
	}
	found := residentsOf(t, e)
	if len(found) != len(keys) {
		t.Errorf("Residents = %+v, want %d", found, len(keys))
	}
	for _, r := range found {
		k := keys[r.Label]
		if k == nil || !bytes.Equal(r.ID, k.Blob) || r.KeyType != kinds[r.Label] || (r.Class == "CKO_SECRET_KEY") != (r.KeyType == kindGeneric) {
			t.Errorf("Residents has %+v, want that of %+v", r, k)
		}
	}
	stop := errors.New("enough")
	calls := 0
	if err := e.Residents(t.Context(), client, func(Resident) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("Residents whose caller has enough = %v after %d", err, calls)
	}
}

// TestRetryTakesAwayWhatTheFirstTryLeft has the first try make an object and fail
// at everything after.
func TestRetryTakesAwayWhatTheFirstTryLeft(t *testing.T) {
	e, shim := openResident(t, nil)
	shim.Fail(softhsm.Sign, pkcs11.CKR_SESSION_HANDLE_INVALID, 1)
	shim.Fail(softhsm.DestroyObject, pkcs11.CKR_SESSION_HANDLE_INVALID, 1)
	before := shim.Calls(softhsm.GenerateKey)
	k := makeKey(t, e, keyspec.HMAC256, keyspec.GenerateVerifyMAC)
	if n := shim.Calls(softhsm.GenerateKey) - before; n != 2 {
		t.Fatalf("C_GenerateKey was called %d times, want a retry", n)
	}
	if found := residentsOf(t, e); len(found) != 1 || !bytes.Equal(found[0].ID, k.Blob) {
		t.Errorf("the token has %+v, want the one key %x", found, k.Blob)
	}
	uses[keyspec.GenerateVerifyMAC](t, e, k, keyspec.HMACSHA256)
}

func TestKeyWhoseCallerHasGoneIsNotLeftInTheToken(t *testing.T) {
	e, shim := openResident(t, nil)
	shim.Hang(softhsm.GenerateKey, true)
	before := shim.Calls(softhsm.GenerateKey)
	ctx, cancel := newCancel(t)
	done := make(chan error)
	go func() {
		k := newKey("gone")
		k.Spec, k.Usage = keyspec.HMAC256, keyspec.GenerateVerifyMAC
		_, err := e.Generate(ctx, client, k)
		done <- err
	}()
	eventually(t, "the key is being made", func() bool { return shim.Calls(softhsm.GenerateKey) > before })
	cancel()
	if err := <-done; !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("Generate whose caller has gone = %v, want %v", err, hsm.ErrDeadline)
	}
	shim.Hang(softhsm.GenerateKey, false)
	eventually(t, "the session is free again", func() bool { return e.Stats().SessionsBusy == 0 })
	if found := residentsOf(t, e); len(found) != 0 {
		t.Errorf("the token has %+v, want nothing", found)
	}
}

// TestResidentKeysDoNotWaitForEachOthersSessions: a pair that waits for a session
// must not keep the one that has it from going into the token.
func TestResidentKeysDoNotWaitForEachOthersSessions(t *testing.T) {
	e, shim := openResident(t, func(c *Config) { c.MaxSessions = 2 }) // one for generation
	if !e.findings.copies {
		t.Fatal("SoftHSM does not copy session objects to the token")
	}
	before := shim.Calls(softhsm.GenerateKeyPair)
	shim.Hang(softhsm.GenerateKeyPair, true)
	made := make(chan error)
	begin := func(spec keyspec.Spec) {
		go func() {
			k := newKey(string(spec))
			k.Spec, k.Usage = spec, keyspec.SignVerify
			_, err := e.Generate(t.Context(), hsm.Call{Account: client.Account, Class: hsm.Generation}, k)
			made <- err
		}()
	}
	begin(keyspec.RSA2048)
	eventually(t, "the RSA key is being made", func() bool { return shim.Calls(softhsm.GenerateKeyPair) > before })
	begin(keyspec.ECCNISTP256)
	eventually(t, "the other waits for a session", func() bool { return e.Stats().Waiting == 1 })
	shim.Hang(softhsm.GenerateKeyPair, false)
	for range 2 {
		if err := <-made; err != nil {
			t.Errorf("Generate = %v", err)
		}
	}
	if found := residentsOf(t, e); len(found) != 2 {
		t.Errorf("the token has %+v, want two keys", found)
	}
}

// TestCallerInAHurryIsNoHungToken: a pair takes as long as it takes.
func TestCallerInAHurryIsNoHungToken(t *testing.T) {
	e, shim := openWithShim(t, func(c *Config) { c.MaxSessions = 4 })
	generate := func(limit time.Duration) {
		k := newKey("k")
		k.Spec, k.Usage = keyspec.ECCNISTP256, keyspec.SignVerify
		if _, err := e.Generate(within(t, limit), hsm.Call{Class: hsm.Generation}, k); !errors.Is(err, hsm.ErrDeadline) {
			t.Errorf("Generate that takes too long = %v, want %v", err, hsm.ErrDeadline)
		}
	}
	shim.Hang(softhsm.GenerateKeyPair, true)
	generate(50 * time.Millisecond)
	if s := e.Stats(); s.Poisoned != 0 || s.Stuck != 0 || s.SessionsBusy != 1 {
		t.Errorf("Stats = %+v, want a session that is busy and none given up", s)
	}
	shim.Hang(softhsm.GenerateKeyPair, false)
	eventually(t, "the session is free again", func() bool { return e.Stats().SessionsBusy == 0 })

	e.cfg.GenerateTimeout = 20 * time.Millisecond
	shim.Hang(softhsm.GenerateKeyPair, true)
	generate(time.Minute)
	if s := e.Stats(); s.Poisoned != 1 || s.Stuck != 1 || s.SessionsBusy != 0 {
		t.Errorf("Stats = %+v, want the session given up at the engine's own limit", s)
	}
	shim.Hang(softhsm.GenerateKeyPair, false)
	eventually(t, "the stuck call returns", func() bool { return e.Stats().Stuck == 0 })
}

func TestOnlyServiceKeysOfExercisesAreDestroyed(t *testing.T) {
	const store = exercisePrefix + "1"
	e := openWithKeys(t, func(c *Config) { c.Resident = []string{store, testStore} })
	rows, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(store, 1))
	must(t, err)
	honest := makeKey(t, e, keyspec.HMAC256, keyspec.GenerateVerifyMAC)
	// A row of an exercise that names the other store's key.
	binding, _ := e.service.Load().find(testStore, hsm.BindingKey, 1)
	forged := hsm.ServiceKey{Store: store, Kind: hsm.BindingKey, Generation: 1, ID: binding.row.ID}
	for _, row := range []hsm.ServiceKey{binding.row, forged} {
		if err := e.DestroyServiceKeys(t.Context(), []hsm.ServiceKey{row}); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("DestroyServiceKeys of %s = %v, want %v", describe(&row), err, hsm.ErrUnsupported)
		}
	}
	k := newKey("exercised")
	k.Store, k.Spec, k.Usage = store, keyspec.HMAC256, keyspec.GenerateVerifyMAC
	made, err := e.Generate(t.Context(), client, k)
	must(t, err)
	must(t, e.Destroy(t.Context(), client, &made))
	must(t, e.DestroyServiceKeys(t.Context(), rows))
	if found := residentsOf(t, e); len(found) != 1 || !bytes.Equal(found[0].ID, honest.Blob) {
		t.Errorf("the token has %+v, want the other store's key", found)
	}
	must(t, e.Check(t.Context()))
	s := ownSession(t, e)
	if objects, err := e.module.findAll(s.handle, []*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, true)}); err != nil || len(objects) != 4 {
		t.Errorf("the token has %d objects, %v, want three service keys and a resident one", len(objects), err)
	}
}
