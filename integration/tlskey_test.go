package integration_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"kmsgate/softhsm"
)

// TestTLSKey goes the way of an operator whose API key stays in the token: key,
// request, certificate of a CA, serve.
func TestTLSKey(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	shim := s.shimmed(t)
	s.plain(t)
	key := s.prepare(t)

	r := s.kmsgate(t, "hsm", "tls-key", "-name", "kms.example.com,127.0.0.1", "-csr", s.path("api.csr"))
	r.wantSuccess(t, "hsm tls-key")
	request := s.request(t, "api.csr")
	if got := request.Subject.CommonName; got != "kms.example.com" || len(request.DNSNames) != 1 || len(request.IPAddresses) != 1 {
		t.Errorf("the request is for %s, %v and %v, want kms.example.com and 127.0.0.1", got, request.DNSNames, request.IPAddresses)
	}
	s.useKey(t, r, s.path("api.pem"))
	s.kmsgate(t, "serve").wantFailure(t, "no certificate yet", 1, "tls", s.path("api.pem"))
	s.certify(t, "api.pem", request)
	i := s.serve(t, nil)
	s.wantServesTLSOnly(t, i)
	s.wantEncrypts(t, i, key)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(i.endpoint, "https://"), &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	if served := conn.ConnectionState().PeerCertificates[0]; !request.PublicKey.(*ecdsa.PublicKey).Equal(served.PublicKey) {
		t.Error("the certificate served is not that of the request's key")
	}

	t.Run("after a reconnect", func(t *testing.T) {
		shim.Die()
		eventually(t, "the API is served again", func() bool {
			_, err := s.secure(i, key).GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: new(int32(1))})
			return err == nil
		})
		if n := i.number(t, "kmsgate_token_connections_total"); n < 2 {
			t.Errorf("the token was connected to %v times, want another time", n)
		}
		s.wantEncrypts(t, i, key)
	})
	t.Run("another key", func(t *testing.T) { s.wantOtherKeys(t, r) })
	wantTLSKeyEvents(t, i.audit(t), keyID(t, r))
}

// shimmed puts a module into the configuration that fails on demand.
func (s *site) shimmed(t testing.TB) *softhsm.Shim {
	t.Helper()
	shim, err := softhsm.NewShim(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shim.Close() }) // nobody uses it any more
	s.set(t, s.token.Module, shim.Module)
	return shim
}

// keyID is the CKA_ID that hsm tls-key has printed.
func keyID(t testing.TB, r ran) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^  key_id: "([0-9a-f]{32})"$`).FindStringSubmatch(r.stdout)
	if found == nil {
		t.Fatalf("no key_id in what was printed:\n%s", r.stdout)
	}
	return found[1]
}

// useKey puts the lines that hsm tls-key has printed into the configuration.
func (s *site) useKey(t testing.TB, r ran, certificate string) {
	t.Helper()
	at := strings.Index(r.stdout, "\ntls:\n")
	if at < 0 {
		t.Fatalf("no lines for the configuration in what was printed:\n%s", r.stdout)
	}
	lines := regexp.MustCompile(`(?m)^  certificate: .*$`).ReplaceAllString(r.stdout[at:], "  certificate: "+certificate)
	s.restore(t, s.text+lines)
}

// request reads a certificate request and verifies its signature.
func (s *site) request(t testing.TB, name string) *x509.CertificateRequest {
	t.Helper()
	request, err := x509.ParseCertificateRequest(s.block(t, name, "CERTIFICATE REQUEST"))
	if err != nil {
		t.Fatal(err)
	}
	if err := request.CheckSignature(); err != nil {
		t.Fatalf("the request's signature: %v", err)
	}
	if public, ok := request.PublicKey.(*ecdsa.PublicKey); !ok || public.Curve != elliptic.P256() {
		t.Fatalf("the request is for a %T, want a key on P-256", request.PublicKey)
	}
	return request
}

// block is the one block of a PEM file.
func (s *site) block(t testing.TB, name, kind string) []byte {
	t.Helper()
	text, err := os.ReadFile(s.path(name))
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != kind || len(rest) > 0 {
		t.Fatalf("%s is not one %s:\n%s", name, kind, text)
	}
	return block.Bytes
}

// certify is a CA that signs a request through an intermediate CA, which clients do
// not know; the root becomes all that they trust.
func (s *site) certify(t testing.TB, name string, request *x509.CertificateRequest) {
	t.Helper()
	var chain []*x509.Certificate
	var signer *ecdsa.PrivateKey
	issue := func(template *x509.Certificate, public any, own *ecdsa.PrivateKey) {
		t.Helper()
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(int64(len(chain)+1)), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		parent := template
		if len(chain) > 0 {
			parent = chain[0]
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain, signer = append([]*x509.Certificate{parsed}, chain...), own
	}
	for _, ca := range []string{"root", "intermediate"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = key
		}
		issue(&x509.Certificate{Subject: pkix.Name{CommonName: ca}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, key.Public(), key)
	}
	issue(&x509.Certificate{
		Subject: request.Subject, DNSNames: request.DNSNames, IPAddresses: request.IPAddresses,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, request.PublicKey, nil)
	s.roots = x509.NewCertPool()
	s.roots.AddCert(chain[2])
	var text []byte
	for _, c := range chain[:2] {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if err := os.WriteFile(s.path(name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantEncrypts makes a key and uses it, over connections of its own.
func (s *site) wantEncrypts(t testing.TB, i *instance, key credentials) {
	t.Helper()
	c := s.secure(i, key)
	created, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: created.KeyMetadata.KeyId, Plaintext: []byte("attack at dawn")}); err != nil {
		t.Fatal(err)
	}
}

// wantOtherKeys makes keys beside the first, and wants serve to tell them apart.
func (s *site) wantOtherKeys(t *testing.T, first ran) {
	was := s.text
	defer s.restore(t, was)
	more := []string{"hsm", "tls-key", "-token", "main", "-name", "127.0.0.1", "-subject", "kmsgate", "-self-signed", s.path("own.pem"), "-days", "7"}
	s.kmsgate(t, more...).wantFailure(t, "a second key of the label", 1, "token main", "kmsgate/tls", keyID(t, first), "-new")
	if _, err := os.Stat(s.path("own.pem")); !os.IsNotExist(err) {
		t.Errorf("what was refused left a file: %v", err)
	}
	second := s.kmsgate(t, append(more, "-new")...)
	second.wantSuccess(t, "hsm tls-key -new")
	s.kmsgate(t, append(more, "-new")...).wantFailure(t, "a file that is there", 1, s.path("own.pem"), "already")

	s.restore(t, strings.Replace(was, keyID(t, first), keyID(t, second), 1))
	s.kmsgate(t, "serve").wantFailure(t, "another key's certificate", 1, "tls", s.path("api.pem"), "another key", keyID(t, second), "hsm tls-key")
	s.restore(t, strings.Replace(was, keyID(t, first), strings.Repeat("0f", 16), 1))
	s.kmsgate(t, "serve").wantFailure(t, "a key that is not there", 1, "tls", "token main has no private key", "hsm inspect")

	own, err := x509.ParseCertificate(s.block(t, "own.pem", "CERTIFICATE"))
	if err != nil {
		t.Fatal(err)
	}
	if days := time.Until(own.NotAfter).Hours() / 24; days < 6 || days > 7 || own.Subject.CommonName != "kmsgate" {
		t.Errorf("the certificate is good for %.1f days, for %s, want 7, kmsgate", days, own.Subject)
	}
	trusted := s.roots
	defer func() { s.roots = trusted }()
	s.roots = x509.NewCertPool()
	s.roots.AddCert(own)
	s.restore(t, was[:strings.Index(was, "\ntls:\n")])
	s.useKey(t, second, s.path("own.pem"))
	i := s.serve(t, nil)
	s.wantServesTLSOnly(t, i)
	i.stop()
}

// wantTLSKeyEvents wants the making of a key on record, and nothing of what was refused.
func wantTLSKeyEvents(t *testing.T, events []event, first string) {
	t.Helper()
	var made []any
	for _, e := range events {
		if e.EventName == "CreateTLSKey" {
			made = append(made, e.RequestParameters["ckaId"])
		}
	}
	if len(made) != 2 || made[0] != first {
		t.Errorf("keys made on record: %v, want two, the first %s", made, first)
	}
}

// TestTLSKeyTriesAPINOnce gives the commands that read a token through another library
// a wrong PIN.
func TestTLSKeyTriesAPINOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	shim := s.shimmed(t)
	s.plain(t)
	s.kmsgate(t, "migrate").wantSuccess(t, "migrate")
	right, err := os.ReadFile(s.token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	write := func(pin string) {
		t.Helper()
		if err := os.WriteFile(s.token.PINFile, []byte(pin), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tlsKey := []string{"hsm", "tls-key", "-name", "127.0.0.1", "-csr", s.path("api.csr")}
	const wrong = "not-the-pin"
	write(wrong)
	r := s.kmsgate(t, tlsKey...)
	r.wantFailure(t, "a wrong PIN", 1, "token main", "PIN refused", s.token.Serial, "kmsgate hsm login")
	if strings.Contains(r.stdout+r.stderr, wrong) {
		t.Errorf("the PIN was printed: %s", r.stderr)
	}
	for range 2 {
		s.kmsgate(t, tlsKey...).wantFailure(t, "a wrong PIN again", 1, "token main", "not tried", "kmsgate hsm login")
		s.kmsgate(t, "hsm", "inspect").wantFailure(t, "a wrong PIN again", 1, "token main", "not tried", "kmsgate hsm login")
	}
	write(string(right))
	s.kmsgate(t, "hsm", "inspect").wantFailure(t, "the right PIN before an operator has said so", 1, "not tried")
	if n := shim.Calls(softhsm.Login); n != 1 {
		t.Errorf("C_Login was called %d times, want once", n)
	}
	if _, err := os.Stat(s.path("api.csr")); !os.IsNotExist(err) {
		t.Errorf("what was refused left a file: %v", err)
	}
	s.kmsgate(t, "hsm", "login").wantSuccess(t, "hsm login")
	r = s.kmsgate(t, tlsKey...)
	r.wantSuccess(t, "hsm tls-key after hsm login")
	s.wantNoSecret(t, r)
	if n := shim.Calls(softhsm.Login); n != 3 {
		t.Errorf("C_Login was called %d times in all, want 3", n)
	}
}

// TestTLSKeyRefusals gives hsm tls-key flags that cannot work.
func TestTLSKeyRefusals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ flags, want string }{
		{"-csr c", "-name"},
		{"-name a,,b -csr c", "-name"},
		{"-name exa_mple.com -csr c", "exa_mple.com"},
		{"-name a", "-self-signed"},
		{"-name a -csr c -self-signed d", "-self-signed"},
		{"-name a -self-signed d -days 0", "-days"},
		{"-name a -csr c -label kms/a", "-label"},
		{"-name a -csr c -label kmsgate/default/domain/1", "-label"},
		{"-name a -csr c -subject " + strings.Repeat("a", 65), "-subject"},
	} {
		arguments := append([]string{"hsm", "tls-key", "-config", "/nonexistent"}, strings.Fields(tc.flags)...)
		run(t, binary(t), arguments...).wantFailure(t, tc.flags, 2, tc.want)
	}
}
