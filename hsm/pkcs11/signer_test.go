package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

// signerKeys are the keys that a signer takes: what is generated, and with what.
var signerKeys = map[string]struct {
	mechanism uint
	public    *pkcs11.Attribute
	curve     elliptic.Curve // nil for RSA
}{
	"P-256": {pkcs11.CKM_EC_KEY_PAIR_GEN, attribute(pkcs11.CKA_EC_PARAMS, []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}), elliptic.P256()},
	"P-384": {pkcs11.CKM_EC_KEY_PAIR_GEN, attribute(pkcs11.CKA_EC_PARAMS, []byte{6, 5, 0x2b, 0x81, 4, 0, 0x22}), elliptic.P384()},
	"P-521": {pkcs11.CKM_EC_KEY_PAIR_GEN, attribute(pkcs11.CKA_EC_PARAMS, []byte{6, 5, 0x2b, 0x81, 4, 0, 0x23}), elliptic.P521()},
	"RSA":   {pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, attribute(pkcs11.CKA_MODULUS_BITS, 2048), nil},
}

// makePair makes a pair in the engine's token behind its back. It returns the public
// key and the handle of the private one.
func makePair(t *testing.T, c *pkcs11.Ctx, e *Engine, name string, id []byte) (crypto.PublicKey, pkcs11.ObjectHandle) {
	t.Helper()
	key := signerKeys[name]
	s, err := c.OpenSession(e.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	must(t, err)
	defer func() { must(t, c.CloseSession(s)) }()
	public, private, err := c.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(key.mechanism, nil)},
		[]*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_ID, id), attribute(pkcs11.CKA_VERIFY, true), key.public},
		[]*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_ID, id), attribute(pkcs11.CKA_SIGN, true), attribute(pkcs11.CKA_PRIVATE, true)})
	must(t, err)
	read := func(kind uint) []byte {
		t.Helper()
		got, err := c.GetAttributeValue(s, public, []*pkcs11.Attribute{attribute(kind, nil)})
		must(t, err)
		return got[0].Value
	}
	if key.curve == nil {
		return &rsa.PublicKey{N: new(big.Int).SetBytes(read(pkcs11.CKA_MODULUS)), E: int(new(big.Int).SetBytes(read(pkcs11.CKA_PUBLIC_EXPONENT)).Int64())}, private
	}
	point := read(pkcs11.CKA_EC_POINT)
	size := 1 + 2*((key.curve.Params().BitSize+7)/8)
	parsed, err := ecdsa.ParseUncompressedPublicKey(key.curve, point[len(point)-size:]) // in an OCTET STRING
	must(t, err)
	return parsed, private
}

// TestSignerServesTLS shakes hands with every key and version that can be.
func TestSignerServesTLS(t *testing.T) {
	e := open(t, configFor(newToken(t)))
	c := foreign(t, e)
	for name := range signerKeys {
		public, _ := makePair(t, c, e, name, []byte(name))
		key, err := e.Signer(t.Context(), []byte(name), public)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			if err := handshake(t, key, version); err != nil {
				t.Errorf("%s, %s: %v", name, tls.VersionName(version), err)
			}
		}
	}
}

// handshake makes a certificate that the key signs itself, and serves one client with it.
func handshake(t *testing.T, key crypto.Signer, version uint16) error {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"kms"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	certificate, err := x509.ParseCertificate(der)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	there, here := net.Pipe()
	server := tls.Server(there, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: version, MaxVersion: version})
	served := make(chan error, 1)
	go func() {
		err := server.HandshakeContext(context.Background())
		_ = there.Close() // whoever waits there has the reason here
		served <- err
	}()
	err = tls.Client(here, &tls.Config{RootCAs: roots, ServerName: "kms", MinVersion: version}).HandshakeContext(t.Context())
	_ = here.Close()
	return errors.Join(err, <-served)
}

// TestSignerForms signs in every form, and verifies with Go's own code.
func TestSignerForms(t *testing.T) {
	e := open(t, configFor(newToken(t)))
	c := foreign(t, e)
	rsaKey, _ := makePair(t, c, e, "RSA", []byte("rsa"))
	ecKey, _ := makePair(t, c, e, "P-256", []byte("ec"))
	rsaSigner, err := e.Signer(t.Context(), []byte("rsa"), rsaKey)
	must(t, err)
	ecSigner, err := e.Signer(t.Context(), []byte("ec"), ecKey)
	must(t, err)
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		digest := make([]byte, hash.Size())
		rand.Read(digest)
		signature, err := ecSigner.Sign(nil, digest, hash)
		if err != nil || !ecdsa.VerifyASN1(ecKey.(*ecdsa.PublicKey), digest, signature) {
			t.Errorf("ECDSA with %v: %v, or it does not verify", hash, err)
		}
		public := rsaKey.(*rsa.PublicKey)
		signature, err = rsaSigner.Sign(nil, digest, hash)
		if err == nil {
			err = rsa.VerifyPKCS1v15(public, hash, digest, signature)
		}
		if err != nil {
			t.Errorf("PKCS #1 v1.5 with %v: %v", hash, err)
		}
		for _, salt := range []int{rsa.PSSSaltLengthEqualsHash, rsa.PSSSaltLengthAuto, 20} {
			pss := &rsa.PSSOptions{SaltLength: salt, Hash: hash}
			signature, err := rsaSigner.Sign(nil, digest, pss)
			if err == nil {
				err = rsa.VerifyPSS(public, hash, digest, signature, pss)
			}
			if err != nil {
				t.Errorf("PSS with %v and salt length %d: %v", hash, salt, err)
			}
		}
	}
	digest := sha512.Sum512(nil)
	for name, try := range map[string]func() ([]byte, error){
		"a digest of another length": func() ([]byte, error) { return ecSigner.Sign(nil, digest[:20], crypto.SHA256) },
		"an unknown hash":            func() ([]byte, error) { return rsaSigner.Sign(nil, digest[:20], crypto.SHA1) },
		"no hash":                    func() ([]byte, error) { return rsaSigner.Sign(nil, digest[:], crypto.Hash(0)) },
		"a salt that is too long": func() ([]byte, error) {
			return rsaSigner.Sign(nil, digest[:], &rsa.PSSOptions{SaltLength: 256, Hash: crypto.SHA512})
		},
		"a negative salt": func() ([]byte, error) {
			return rsaSigner.Sign(nil, digest[:], &rsa.PSSOptions{SaltLength: -5, Hash: crypto.SHA512})
		},
	} {
		if _, err := try(); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("%s: %v, want ErrUnsupported", name, err)
		}
	}
}

// TestSignerRefusesOtherKeys wants keys that are not there, not alone or another's to
// be told apart.
func TestSignerRefusesOtherKeys(t *testing.T) {
	e := open(t, configFor(newToken(t)))
	c := foreign(t, e)
	a, _ := makePair(t, c, e, "P-256", []byte("a"))
	b, _ := makePair(t, c, e, "P-256", []byte("b"))
	makePair(t, c, e, "P-256", []byte("twice"))
	makePair(t, c, e, "P-256", []byte("twice"))
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must(t, err)
	for _, tc := range []struct {
		name, id string
		public   crypto.PublicKey
		want     error
	}{
		{"its own", "a", a, nil},
		{"of another key", "a", b, hsm.ErrWrongMaterial},
		{"not there", "c", a, hsm.ErrMissing},
		{"there twice", "twice", a, hsm.ErrUnavailable},
		{"on a curve that TLS does not use", "a", p224.Public(), hsm.ErrUnsupported},
		{"no public key", "a", "a", hsm.ErrUnsupported},
	} {
		if _, err := e.Signer(t.Context(), []byte(tc.id), tc.public); !errors.Is(err, tc.want) {
			t.Errorf("Signer of a key that is %s = %v, want %v", tc.name, err, tc.want)
		}
	}
	if s := e.Stats(); !s.Serving || s.Epoch != 1 {
		t.Errorf("serving: %t, epoch %d; want the token to be as it was, since nothing was wrong with it", s.Serving, s.Epoch)
	}
}

// TestSignerFindsItsKeyAgain signs while the token is harmed, and after.
func TestSignerFindsItsKeyAgain(t *testing.T) {
	for name, harm := range map[string]func(*testing.T, *pkcs11.Ctx, *Engine){
		"close all sessions": func(t *testing.T, c *pkcs11.Ctx, e *Engine) { must(t, c.CloseAllSessions(e.slot)) },
		"finalize":           func(t *testing.T, c *pkcs11.Ctx, _ *Engine) { must(t, c.Finalize()) },
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, configFor(newToken(t)))
			c := foreign(t, e)
			public, _ := makePair(t, c, e, "P-256", []byte("a"))
			key, err := e.Signer(t.Context(), []byte("a"), public)
			must(t, err)
			harm(t, c, e)
			signs(t, key)
			if n := e.Stats().Epoch; n < 2 {
				t.Errorf("epoch %d, want another one", n)
			}
		})
	}
}

// signs wants a signature; after a device error the first callers are refused.
func signs(t *testing.T, key crypto.Signer) {
	t.Helper()
	digest := make([]byte, 32)
	ctx := within(t, 20*time.Second)
	for {
		_, err := key.Sign(nil, digest, crypto.SHA256)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("Sign = %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestSignerLooksUpAHandleThatIsGone makes the object another while its handle is
// kept, and lets it fail once.
func TestSignerLooksUpAHandleThatIsGone(t *testing.T) {
	cfg := configFor(newToken(t))
	shim := newShim(t, &cfg)
	e := open(t, cfg)
	c := foreign(t, e)
	public, private := makePair(t, c, e, "P-256", []byte("a"))
	key, err := e.Signer(t.Context(), []byte("a"), public)
	must(t, err)
	digest := make([]byte, 32)
	shim.Fail(softhsm.Sign, pkcs11.CKR_KEY_HANDLE_INVALID, 1)
	if _, err := key.Sign(nil, digest, crypto.SHA256); err != nil {
		t.Errorf("Sign with a handle that is gone = %v, want it to be looked up again", err)
	}
	s, err := c.OpenSession(e.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	must(t, err)
	must(t, c.DestroyObject(s, private))
	must(t, c.CloseSession(s))
	if _, err := key.Sign(nil, digest, crypto.SHA256); !errors.Is(err, hsm.ErrMissing) {
		t.Errorf("Sign with a key that is gone = %v, want ErrMissing", err)
	}
	makePair(t, c, e, "P-256", []byte("a")) // another one under the same id
	if _, err := key.Sign(nil, digest, crypto.SHA256); !errors.Is(err, hsm.ErrWrongMaterial) {
		t.Errorf("Sign with another key = %v, want ErrWrongMaterial", err)
	}
}

func TestSignerIsForManyGoroutines(t *testing.T) {
	e := open(t, configFor(newToken(t)))
	public, _ := makePair(t, foreign(t, e), e, "P-256", []byte("a"))
	key, err := e.Signer(t.Context(), []byte("a"), public)
	must(t, err)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 20 {
				digest := make([]byte, 32)
				rand.Read(digest)
				if _, err := key.Sign(nil, digest, crypto.SHA256); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestSignerLeavesRoomForClients has more signatures wait than the queue has room for.
func TestSignerLeavesRoomForClients(t *testing.T) {
	cfg := configFor(newToken(t))
	shim := newShim(t, &cfg)
	cfg.MaxSessions, cfg.MaxQueue, cfg.CallTimeout = 2, signerPlaces+8, time.Minute
	e := open(t, cfg)
	public, _ := makePair(t, foreign(t, e), e, "P-256", []byte("a"))
	key, err := e.Signer(t.Context(), []byte("a"), public)
	must(t, err)
	ctx := within(t, 20*time.Second)
	shim.Hang(softhsm.Sign, true)
	var wg sync.WaitGroup
	for range 3 * signerPlaces {
		wg.Go(func() {
			if _, err := key.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
				t.Error(err)
			}
		})
	}
	for ctx.Err() == nil && e.Stats().Waiting < signerPlaces-cfg.MaxSessions {
		time.Sleep(time.Millisecond)
	}
	wg.Go(func() {
		if _, err := e.Random(t.Context(), client, 1); err != nil {
			t.Errorf("a client's call beside signatures that wait: %v", err)
		}
	})
	for ctx.Err() == nil && e.Stats().Waiting < signerPlaces-cfg.MaxSessions+1 {
		time.Sleep(time.Millisecond)
	}
	shim.Hang(softhsm.Sign, false)
	wg.Wait()
}
