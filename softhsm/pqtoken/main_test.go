package pqtoken_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
	"go.uber.org/goleak"

	"kmsgate/softhsm"
	"kmsgate/softhsm/pqtoken"
)

// SoftHSM is one per process: these tests do not run in parallel.

// common is the token of the tests that need none of their own: each has a slot
// of its own there.
var common = sync.OnceValues(func() (*pqtoken.Token, error) {
	return pqtoken.New(shared, pqtoken.Config{})
})

// shared is a folder for all tests.
var shared string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	var err error
	if shared, err = os.MkdirTemp("", "pqtoken-test-"); err != nil {
		fmt.Println("FAIL:", err)
		return 1
	}
	defer os.RemoveAll(shared)
	code = m.Run()
	token, err := common()
	if err == nil {
		err = token.Close()
	}
	if err == nil {
		err = goleak.Find()
	}
	if err != nil {
		fmt.Println("FAIL:", err)
		return 1
	}
	return code
}

// What miekg/pkcs11 has no name for.
const (
	ckkMLKEM           = 0x49
	ckkMLDSA           = 0x4A
	ckmMLKEMKeyPairGen = 0xF
	ckmMLKEM           = 0x17
	ckmMLDSAKeyPairGen = 0x1C
	ckmMLDSA           = 0x1D
	ckaParameterSet    = 0x61D
	ckaEncapsulate     = 0x633
	ckaDecapsulate     = 0x634
	ckaSeed            = 0x637

	ckrParameterSetNotSupported = 0x209
)

// bench is a token, its module initialised in this process, and a session in
// which the user is logged in.
type bench struct {
	*pkcs11.Ctx
	t       *testing.T
	token   *pqtoken.Token
	softHSM softhsm.Token
	pin     string
	slot    uint
	s       pkcs11.SessionHandle
}

func newBench(t *testing.T) *bench {
	t.Helper()
	token, err := common()
	if err != nil {
		t.Fatal(err)
	}
	return newBenchOn(t, token)
}

// newBenchOf is on a token of its own.
func newBenchOf(t *testing.T, c pqtoken.Config) *bench {
	t.Helper()
	token, err := pqtoken.New(t.TempDir(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	return newBenchOn(t, token)
}

func newBenchOn(t *testing.T, token *pqtoken.Token) *bench {
	t.Helper()
	b := &bench{t: t, token: token}
	var err error
	b.softHSM, err = softhsm.Provision(t.TempDir(), "pq")
	b.must(err)
	b.pin = readFile(t, b.softHSM.PINFile)
	b.Ctx = pkcs11.New(b.token.Module)
	if b.Ctx == nil {
		t.Fatal("the module cannot be loaded")
	}
	t.Cleanup(b.Destroy)
	b.start()
	t.Cleanup(func() { _ = b.Finalize() }) // it may be finalised
	return b
}

// start initialises the module, opens the session and logs in.
func (b *bench) start() {
	b.t.Helper()
	b.must(b.Initialize())
	slots, err := b.GetSlotList(true)
	b.must(err)
	for _, b.slot = range slots {
		if info, err := b.GetTokenInfo(b.slot); err == nil && info.SerialNumber == b.softHSM.Serial {
			break
		}
	}
	b.s = b.session()
	b.must(b.Login(b.s, pkcs11.CKU_USER, b.pin))
}

// session opens another session for reading and writing.
func (b *bench) session() pkcs11.SessionHandle {
	b.t.Helper()
	s, err := b.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	b.must(err)
	return s
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// refused fails the test unless a call returned this code.
func (b *bench) refused(what string, err error, code uint) {
	b.t.Helper()
	if !errors.Is(err, pkcs11.Error(code)) {
		b.t.Errorf("%s = %v, want %v", what, err, pkcs11.Error(code))
	}
}

func attr(kind uint, value any) *pkcs11.Attribute { return pkcs11.NewAttribute(kind, value) }

// template is attributes one after the other; of several of one kind the last counts.
func template(parts ...*pkcs11.Attribute) []*pkcs11.Attribute {
	var t []*pkcs11.Attribute
	for i, a := range parts {
		last := true
		for _, later := range parts[i+1:] {
			last = last && later.Type != a.Type
		}
		if last {
			t = append(t, a)
		}
	}
	return t
}

func mech(kind uint) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(kind, nil)}
}

// mldsaPair makes a pair for signing of session objects; more attributes of the
// private key may be given.
func (b *bench) mldsaPair(set uint, more ...*pkcs11.Attribute) (publicKey, privateKey pkcs11.ObjectHandle) {
	b.t.Helper()
	publicKey, privateKey, err := b.GenerateKeyPair(b.s, mech(ckmMLDSAKeyPairGen),
		template(attr(ckaParameterSet, set), attr(pkcs11.CKA_VERIFY, true)),
		template(append([]*pkcs11.Attribute{attr(pkcs11.CKA_SIGN, true)}, more...)...))
	b.must(err)
	return publicKey, privateKey
}

// value reads one attribute.
func (b *bench) value(o pkcs11.ObjectHandle, kind uint) []byte {
	b.t.Helper()
	got, err := b.GetAttributeValue(b.s, o, []*pkcs11.Attribute{attr(kind, nil)})
	b.must(err)
	return got[0].Value
}

// sign signs with CKM_ML_DSA.
func (b *bench) sign(key pkcs11.ObjectHandle, m []*pkcs11.Mechanism, message []byte) []byte {
	b.t.Helper()
	b.must(b.SignInit(b.s, m, key))
	signature, err := b.Sign(b.s, message)
	b.must(err)
	return signature
}

// verify verifies with CKM_ML_DSA.
func (b *bench) verify(key pkcs11.ObjectHandle, m []*pkcs11.Mechanism, message, signature []byte) error {
	b.t.Helper()
	b.must(b.VerifyInit(b.s, m, key))
	return b.Verify(b.s, message, signature)
}

// find is the handles of all objects that have these attributes.
func (b *bench) find(t ...*pkcs11.Attribute) []pkcs11.ObjectHandle {
	b.t.Helper()
	b.must(b.FindObjectsInit(b.s, t))
	var all []pkcs11.ObjectHandle
	for {
		some, _, err := b.FindObjects(b.s, 2)
		b.must(err)
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	b.must(b.FindObjectsFinal(b.s))
	return all
}

// flipped is b with one bit changed.
func flipped(b []byte, bit int) []byte {
	c := bytes.Clone(b)
	c[bit/8] ^= 1 << (bit % 8)
	return c
}

// ulong is a CK_ULONG as C has it in memory.
func ulong(v uint) []byte { return binary.NativeEndian.AppendUint64(nil, uint64(v)) }

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
