package softhsm_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"kmsgate/softhsm"
)

// shimmed is a shim in front of a token with somebody logged in.
type shimmed struct {
	*softhsm.Shim
	dir     string
	token   softhsm.Token
	pin     string
	ctx     *pkcs11.Ctx
	slot    uint
	session pkcs11.SessionHandle
	key     pkcs11.ObjectHandle // an AES key of the session
}

func newShimmed(t *testing.T) *shimmed {
	t.Helper()
	s := &shimmed{dir: t.TempDir()}
	s.token = provision(t, s.dir, "dev")
	s.pin = string(read(t, s.token.PINFile))
	var err error
	if s.Shim, err = softhsm.NewShim(s.dir); err != nil {
		t.Fatal(err)
	}
	s.ctx = pkcs11.New(s.Module)
	s.start(t)
	t.Cleanup(func() {
		s.Heal()
		must(t, s.ctx.Finalize())
		s.ctx.Destroy()
		must(t, s.Close())
	})
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start initialises the module and logs in.
func (s *shimmed) start(t *testing.T) {
	t.Helper()
	must(t, s.ctx.Initialize())
	slots, err := s.ctx.GetSlotList(true)
	must(t, err)
	for _, id := range slots {
		if info, err := s.ctx.GetTokenInfo(id); err == nil && info.SerialNumber == s.token.Serial {
			s.slot = id
		}
	}
	s.connect(t)
}

// connect opens a session, logs in, and makes a key.
func (s *shimmed) connect(t *testing.T) {
	t.Helper()
	var err error
	s.session, err = s.ctx.OpenSession(s.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	must(t, err)
	must(t, s.ctx.Login(s.session, pkcs11.CKU_USER, s.pin))
	s.key, err = s.ctx.GenerateKey(s.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, "a key"),
	})
	must(t, err)
}

func (s *shimmed) random() ([]byte, error) { return s.ctx.GenerateRandom(s.session, 16) }

func (s *shimmed) randomFails() error {
	_, err := s.random()
	return err
}

func (s *shimmed) encrypt() ([]byte, error) {
	m := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_CBC_PAD, make([]byte, 16))}
	if err := s.ctx.EncryptInit(s.session, m, s.key); err != nil {
		return nil, err
	}
	return s.ctx.Encrypt(s.session, []byte("plaintext"))
}

func (s *shimmed) encryptFails() error {
	_, err := s.encrypt()
	return err
}

func wantCode(t *testing.T, what string, err error, code uint) {
	t.Helper()
	if code == pkcs11.CKR_OK && err == nil {
		return
	}
	if !errors.Is(err, pkcs11.Error(code)) {
		t.Errorf("%s = %v, want %v", what, err, pkcs11.Error(code))
	}
}

func TestShimReturnsCodes(t *testing.T) {
	s := newShimmed(t)
	other, err := s.ctx.OpenSession(s.slot, pkcs11.CKF_SERIAL_SESSION)
	must(t, err)
	const ok, failed = pkcs11.CKR_OK, pkcs11.CKR_FUNCTION_FAILED
	for name, c := range map[string]struct {
		fault softhsm.Fault
		want  []uint // of calls one after another
	}{
		"for a while":         {softhsm.Fault{Times: 2}, []uint{failed, failed, ok}},
		"until it is cleared": {softhsm.Fault{}, []uint{failed, failed, failed, failed}},
		"every third":         {softhsm.Fault{Every: 3}, []uint{ok, ok, failed, ok, ok, failed}},
		"every second, twice": {softhsm.Fault{Every: 2, Times: 2}, []uint{ok, failed, ok, failed, ok, ok}},
		"of this slot":        {softhsm.Fault{Slot: s.slot}, []uint{failed}},
		"of another slot":     {softhsm.Fault{Slot: s.slot + 1}, []uint{ok}},
		"of this session":     {softhsm.Fault{Session: uint(s.session)}, []uint{failed}},
		"of another session":  {softhsm.Fault{Session: uint(other)}, []uint{ok}},
	} {
		c.fault.Code = failed
		s.Inject(softhsm.GenerateRandom, c.fault)
		before := s.Calls(softhsm.GenerateRandom)
		for _, want := range c.want {
			wantCode(t, name+": C_GenerateRandom", s.randomFails(), want)
		}
		if n := s.Calls(softhsm.GenerateRandom) - before; n != uint64(len(c.want)) {
			t.Errorf("%s: %d calls counted, want %d", name, n, len(c.want))
		}
		s.Clear(softhsm.GenerateRandom)
		wantCode(t, name+": C_GenerateRandom afterwards", s.randomFails(), ok)
	}
	s.Fail(softhsm.GenerateRandom, failed, 5)
	s.Fail(softhsm.GenerateRandom, failed, 0)
	wantCode(t, "C_GenerateRandom that fails no times", s.randomFails(), ok)
}

func TestShimMakesTheCallAndSaysThatItFailed(t *testing.T) {
	s := newShimmed(t)
	s.Inject(softhsm.DestroyObject, softhsm.Fault{Code: pkcs11.CKR_DEVICE_ERROR, After: true, Times: 1})
	wantCode(t, "C_DestroyObject", s.ctx.DestroyObject(s.session, s.key), pkcs11.CKR_DEVICE_ERROR)
	wantCode(t, "C_DestroyObject again", s.ctx.DestroyObject(s.session, s.key), pkcs11.CKR_OBJECT_HANDLE_INVALID)
}

func TestShimDelaysAndHangs(t *testing.T) {
	s := newShimmed(t)
	const delay = 20 * time.Millisecond
	start := time.Now()
	s.Inject(softhsm.GenerateRandom, softhsm.Fault{Delay: delay, Times: 1})
	must(t, s.randomFails())
	if took := time.Since(start); took < delay {
		t.Errorf("a call with a delay of %v took %v", delay, took)
	}
	s.Hang(softhsm.GenerateRandom, true)
	returned := make(chan error)
	before := s.Calls(softhsm.GenerateRandom)
	go func() { returned <- s.randomFails() }()
	for s.Calls(softhsm.GenerateRandom) == before {
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-returned:
		t.Errorf("a call that hangs returned %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	s.Hang(softhsm.GenerateRandom, false)
	must(t, <-returned)
}

func TestShimIsAsSlowAndNarrowAsItIsTold(t *testing.T) {
	s := newShimmed(t)
	const latency, calls, limit = 5 * time.Millisecond, 12, 3
	var opened []pkcs11.SessionHandle
	for range calls {
		session, err := s.ctx.OpenSession(s.slot, pkcs11.CKF_SERIAL_SESSION)
		must(t, err)
		opened = append(opened, session)
	}
	s.Slow(latency, limit)
	start := time.Now()
	var all sync.WaitGroup
	for _, session := range opened {
		all.Go(func() {
			if _, err := s.ctx.GenerateRandom(session, 8); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if took, least := time.Since(start), calls/limit*latency; took < least {
		t.Errorf("%d calls at once through a door for %d took %v, want %v at least", calls, limit, took, least)
	}
	if most := s.Most(); most != limit {
		t.Errorf("at most %d calls were in the module at once, want %d", most, limit)
	}
	s.Slow(0, 0)
}

func TestShimLosesSessionsAndLogin(t *testing.T) {
	s := newShimmed(t)
	if n := s.Sessions(); n != 1 {
		t.Errorf("Sessions = %d, want 1", n)
	}
	s.LoseLogin()
	wantCode(t, "C_EncryptInit without a login", s.encryptFails(), pkcs11.CKR_USER_NOT_LOGGED_IN)
	must(t, s.randomFails())
	must(t, s.ctx.Login(s.session, pkcs11.CKU_USER, s.pin))
	wantCode(t, "C_EncryptInit after the next login", s.encryptFails(), pkcs11.CKR_OBJECT_HANDLE_INVALID)
	s.DropSessions()
	wantCode(t, "C_GenerateRandom with a session that was dropped", s.randomFails(), pkcs11.CKR_SESSION_HANDLE_INVALID)
	if n := s.Sessions(); n != 0 {
		t.Errorf("Sessions = %d after all were dropped, want 0", n)
	}
	s.connect(t) // SoftHSM would say so if somebody were logged in
	must(t, s.encryptFails())
	must(t, s.ctx.CloseSession(s.session))
	if n := s.Sessions(); n != 0 {
		t.Errorf("Sessions = %d after the last was closed, want 0", n)
	}
	s.connect(t)
	must(t, s.ctx.CloseAllSessions(s.slot))
	if n := s.Sessions(); n != 0 {
		t.Errorf("Sessions = %d after all were closed, want 0", n)
	}
}

func TestShimTakesTheTokenAway(t *testing.T) {
	s := newShimmed(t)
	for name, slot := range map[string]uint{"this one": s.slot, "all": softhsm.AllSlots} {
		s.Remove(slot)
		if slots, err := s.ctx.GetSlotList(true); err != nil || slices.Contains(slots, s.slot) {
			t.Errorf("%s: C_GetSlotList = %v, %v; want it without %d", name, slots, err, s.slot)
		}
		if slots, err := s.ctx.GetSlotList(false); err != nil || !slices.Contains(slots, s.slot) {
			t.Errorf("%s: C_GetSlotList of all slots = %v, %v; want %d in it", name, slots, err, s.slot)
		}
		_, err := s.ctx.GetTokenInfo(s.slot)
		wantCode(t, name+": C_GetTokenInfo", err, pkcs11.CKR_TOKEN_NOT_PRESENT)
		if err := s.randomFails(); err == nil {
			t.Errorf("%s: a session of a token that is away works", name)
		}
		s.PutBack()
		if err := s.randomFails(); err == nil {
			t.Errorf("%s: a session has outlived the absence of its token", name)
		}
		s.connect(t)
		must(t, s.encryptFails())
	}
}

func TestShimRenumbersSlots(t *testing.T) {
	s := newShimmed(t)
	s.Renumber(1000)
	slots, err := s.ctx.GetSlotList(true)
	must(t, err)
	if slices.Contains(slots, s.slot) || !slices.Contains(slots, s.slot+1000) {
		t.Errorf("C_GetSlotList = %v, want it with %d and without %d", slots, s.slot+1000, s.slot)
	}
	_, err = s.ctx.GetTokenInfo(s.slot)
	wantCode(t, "C_GetTokenInfo by the old number", err, pkcs11.CKR_SLOT_ID_INVALID)
	if info, err := s.ctx.GetTokenInfo(s.slot + 1000); err != nil || info.SerialNumber != s.token.Serial {
		t.Errorf("C_GetTokenInfo = %+v, %v; want serial number %s", info, err, s.token.Serial)
	}
	if info, err := s.ctx.GetSessionInfo(s.session); err != nil || info.SlotID != s.slot+1000 {
		t.Errorf("C_GetSessionInfo = %+v, %v; want slot %d", info, err, s.slot+1000)
	}
	s.Renumber(0)
}

func TestShimHasAnotherFirmware(t *testing.T) {
	s := newShimmed(t)
	before, err := s.ctx.GetTokenInfo(s.slot)
	must(t, err)
	listed, err := s.ctx.GetMechanismList(s.slot)
	must(t, err)
	s.Update(3, pkcs11.CKM_AES_GCM)
	after, err := s.ctx.GetTokenInfo(s.slot)
	must(t, err)
	before.FirmwareVersion.Minor += 3
	if after.FirmwareVersion != before.FirmwareVersion || after.HardwareVersion != before.HardwareVersion || after.SerialNumber != before.SerialNumber {
		t.Errorf("C_GetTokenInfo = %+v, want %+v", after, before)
	}
	left, err := s.ctx.GetMechanismList(s.slot)
	must(t, err)
	if len(left) != len(listed)-1 || slices.ContainsFunc(left, func(m *pkcs11.Mechanism) bool { return m.Mechanism == pkcs11.CKM_AES_GCM }) {
		t.Errorf("C_GetMechanismList = %d mechanisms of %d, want all but AES-GCM", len(left), len(listed))
	}
}

func TestShimSpoilsOutputs(t *testing.T) {
	s := newShimmed(t)
	good, err := s.encrypt()
	must(t, err)
	flipped, zeros, constant := bytes.Clone(good), make([]byte, len(good)), bytes.Repeat([]byte{0xA5}, len(good))
	flipped[len(good)/2] ^= 1
	for name, c := range map[string]struct {
		fault softhsm.Fault
		want  []byte
	}{
		"a bit":     {softhsm.Fault{Corrupt: softhsm.Flipped}, flipped},
		"zeros":     {softhsm.Fault{Corrupt: softhsm.Zeros}, zeros},
		"constant":  {softhsm.Fault{Corrupt: softhsm.Constant}, constant},
		"too short": {softhsm.Fault{Length: softhsm.TooShort}, good[:len(good)-1]},
		"zero":      {softhsm.Fault{Length: softhsm.Zero}, good[:0]},
	} {
		s.Inject(softhsm.Encrypt, c.fault)
		got, err := s.encrypt()
		if err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s: C_Encrypt = %x, %v; want %x", name, got, err, c.want)
		}
	}
	s.Clear(softhsm.Encrypt)
	s.Inject(softhsm.GenerateRandom, softhsm.Fault{Corrupt: softhsm.Constant})
	if got, err := s.random(); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{0xA5}, 16)) {
		t.Errorf("C_GenerateRandom = %x, %v; want the same bytes", got, err)
	}
	s.Inject(softhsm.GetAttributeValue, softhsm.Fault{Corrupt: softhsm.Zeros})
	label, err := s.ctx.GetAttributeValue(s.session, s.key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
	if err != nil || !bytes.Equal(label[0].Value, make([]byte, 5)) {
		t.Errorf("C_GetAttributeValue = %+v, %v; want zeros", label, err)
	}
	for how, more := range map[softhsm.Length]int{softhsm.TooLong: 1, softhsm.Huge: 1} {
		s.Inject(softhsm.Encrypt, softhsm.Fault{Length: how})
		if got, err := s.encrypt(); err != nil || len(got) != len(good)+more {
			t.Errorf("length %d: C_Encrypt = %x, %v; want %d bytes", how, got, err, len(good)+more)
		}
	}
	s.Clear(softhsm.Encrypt)
	s.Inject(softhsm.OpenSession, softhsm.Fault{Corrupt: softhsm.Flipped})
	wrong, err := s.ctx.OpenSession(s.slot, pkcs11.CKF_SERIAL_SESSION)
	must(t, err)
	_, err = s.ctx.GetSessionInfo(wrong)
	wantCode(t, "C_GetSessionInfo of a handle that was spoilt", err, pkcs11.CKR_SESSION_HANDLE_INVALID)
}

func TestShimDiesUntilFinalize(t *testing.T) {
	s := newShimmed(t)
	s.Die()
	wantCode(t, "C_GenerateRandom", s.randomFails(), pkcs11.CKR_DEVICE_ERROR)
	_, err := s.ctx.GetSlotList(true)
	wantCode(t, "C_GetSlotList", err, pkcs11.CKR_DEVICE_ERROR)
	must(t, s.ctx.Finalize())
	if n := s.Sessions(); n != 0 {
		t.Errorf("Sessions = %d after C_Finalize, want 0", n)
	}
	s.start(t)
	must(t, s.encryptFails())
}

// victim is the directory of a shim whose module a test process loads, to obey
// what another has ordered.
const victim = "KMSGATE_TEST_SHIM"

func TestShimKillsTheProcess(t *testing.T) {
	if dir := os.Getenv(victim); dir != "" {
		ctx := pkcs11.New(filepath.Join(dir, "shim.so"))
		must(t, ctx.Initialize())
		return
	}
	dir := t.TempDir()
	provision(t, dir, "dev")
	made, err := softhsm.NewShim(dir)
	must(t, err)
	must(t, made.Close())
	s, err := softhsm.OpenShim(dir) // as any other process can
	must(t, err)
	defer func() { must(t, s.Close()) }()
	for _, c := range []struct {
		signal syscall.Signal
		want   string
	}{{0, ""}, {syscall.SIGKILL, "signal: killed"}, {syscall.SIGSEGV, "exit status 2"}} {
		s.Inject(softhsm.Initialize, softhsm.Fault{Signal: c.signal})
		child := exec.Command(os.Args[0], "-test.run=^TestShimKillsTheProcess$")
		child.Env = append(os.Environ(), victim+"="+dir)
		output, err := child.CombinedOutput()
		if got := ""; err != nil {
			got = err.Error()
			if got != c.want {
				t.Errorf("a process that gets %v ended with %q, want %q:\n%s", c.signal, got, c.want, output)
			}
		} else if c.want != "" {
			t.Errorf("a process that gets %v ended well, want %q", c.signal, c.want)
		}
		if c.signal == syscall.SIGSEGV && !strings.Contains(string(output), "SIGSEGV") {
			t.Errorf("a process that reads nowhere says:\n%s", output)
		}
	}
	if n := s.Calls(softhsm.Initialize); n != 3 {
		t.Errorf("Calls of C_Initialize = %d in three processes, want 3", n)
	}
}

func TestShimNeedsAModuleAndAControlFile(t *testing.T) {
	if _, err := softhsm.NewShimFor(t.TempDir(), "/no/such/module.so"); err == nil || !strings.Contains(err.Error(), "/no/such/module.so") {
		t.Errorf("NewShimFor a file that is not there = %v, want an error that names it", err)
	}
	dir := t.TempDir()
	if _, err := softhsm.OpenShim(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("OpenShim of an empty directory = %v, want %v", err, os.ErrNotExist)
	}
	must(t, os.WriteFile(filepath.Join(dir, "control"), []byte("other"), 0o600))
	if _, err := softhsm.OpenShim(dir); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("OpenShim of a strange control file = %v, want an error that says so", err)
	}
	if softhsm.GenerateRandom.String() != "C_GenerateRandom" || softhsm.WaitForSlotEvent.String() != "C_WaitForSlotEvent" {
		t.Error("functions are not where their names are")
	}
}
