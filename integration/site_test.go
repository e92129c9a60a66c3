package integration_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"kmsgate/metadata"
	"kmsgate/metadata/pgserver"
	"kmsgate/softhsm"
)

// A site is what an operator of kmsgate serve has: a database, a token with its
// PIN, a certificate, and a configuration made from the sample.
type site struct {
	dir      string
	database string // URL
	token    softhsm.Token
	roots    *x509.CertPool
	text     string // the configuration
}

// startPostgres starts a Postgres for a test that loses nothing.
func startPostgres(t testing.TB, settings map[string]string) *pgserver.Server {
	t.Helper()
	server, err := pgserver.Start(t.Context(), pgserver.Config{Temporary: true, Durable: true, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// newDatabase makes an empty database and returns its URL.
func newDatabase(t testing.TB, server *pgserver.Server, name string) string {
	t.Helper()
	if err := metadata.CreateDatabase(t.Context(), server.URL("postgres"), name, ""); err != nil {
		t.Fatal(err)
	}
	return server.URL(name)
}

// provisioning keeps two tests from making tokens at once: SoftHSM is one a process.
var provisioning sync.Mutex

// newSite makes a site on a database.
func newSite(t testing.TB, database string) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), database: database, roots: x509.NewCertPool()}
	provisioning.Lock()
	defer provisioning.Unlock()
	var err error
	if s.token, err = softhsm.Provision(filepath.Join(s.dir, "softhsm"), "kmsgate"); err != nil {
		t.Fatal(err)
	}
	s.makeCertificate(t)
	sample, err := os.ReadFile("../deployments/kmsgate.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s.text = string(sample)
	s.set(t, "listen: 127.0.0.1:4599", "listen: 127.0.0.1:0")
	s.set(t, "admin_listen: 127.0.0.1:4598", "admin_listen: 127.0.0.1:0")
	s.set(t, "#tls:\n#  certificate: /etc/kmsgate/tls.pem\n#  key: /etc/kmsgate/tls.key\n",
		"tls:\n  certificate: "+s.path("tls.pem")+"\n  key: "+s.path("tls.key")+"\n")
	s.set(t, "postgres://kmsgate@127.0.0.1:5432/kmsgate?sslmode=disable", database)
	s.set(t, "/usr/lib/softhsm/libsofthsm2.so", s.token.Module)
	s.set(t, "/etc/kmsgate/softhsm2.conf", s.token.ConfPath)
	s.set(t, "/etc/kmsgate/pin", s.token.PINFile)
	s.set(t, "throttling: true", "throttling: false")
	return s
}

// set changes the configuration at the one place that is as it says.
func (s *site) set(t testing.TB, was, is string) {
	t.Helper()
	if n := strings.Count(s.text, "\n"+was) + strings.Count(s.text, " "+was); n != 1 {
		t.Fatalf("%q is in the configuration %d times, want once:\n%s", was, n, s.text)
	}
	s.text = strings.Replace(s.text, was, is, 1)
	if err := os.WriteFile(s.config(), []byte(s.text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *site) config() string { return s.path("kmsgate.yaml") }

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// makeCertificate makes a certificate for 127.0.0.1 that signs itself.
func (s *site) makeCertificate(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kmsgate"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(certificate)
	if err != nil {
		t.Fatal(err)
	}
	s.roots.AddCert(parsed)
	for name, block := range map[string]*pem.Block{
		"tls.pem": {Type: "CERTIFICATE", Bytes: certificate}, "tls.key": {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(s.path(name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// kmsgate runs a command on the configuration.
func (s *site) kmsgate(t testing.TB, command ...string) ran {
	t.Helper()
	words := 1
	if command[0] == "account" || command[0] == "hsm" || command[0] == "audit" {
		words = 2
	}
	arguments := append(append([]string{}, command[:words]...), "-config", s.config())
	return run(t, binary(t), append(arguments, command[words:]...)...)
}

// prepare migrates the database and initialises the token; the result is the
// access key of the first account's root.
func (s *site) prepare(t testing.TB) credentials {
	t.Helper()
	s.kmsgate(t, "migrate").wantSuccess(t, "migrate")
	r := s.kmsgate(t, "init", "-account", own)
	r.wantSuccess(t, "init")
	return printedKey(t, r)
}

// printedKey is the access key that a command has printed.
func printedKey(t testing.TB, r ran) credentials {
	t.Helper()
	variables := exported(r.stdout)
	key := credentials{variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"]}
	if len(variables) != 2 || key.accessKey == "" || key.secret == "" {
		t.Fatalf("no access key in what was printed:\n%s", r.stdout)
	}
	return key
}

// serve starts kmsgate serve and waits until it serves. It is stopped at the end.
func (s *site) serve(t testing.TB, keys map[string]credentials) *instance {
	t.Helper()
	i := &instance{binary: binary(t), dir: s.dir, keys: keys, stdout: newOutput(), stderr: newOutput(), exited: make(chan struct{})}
	i.cmd = exec.Command(i.binary, "serve", "-config", s.config())
	i.cmd.Stdout, i.cmd.Stderr = i.stdout, i.stderr
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(i.exited)
		_ = i.cmd.Wait() // the exit code stays in ProcessState
	}()
	t.Cleanup(func() {
		for _, problem := range leaks("the log of a site", i.stderr.String()) {
			t.Error(problem)
		}
	})
	t.Cleanup(i.kill)
	var line struct {
		Address      string `json:"address"`
		AdminAddress string `json:"admin_address"`
		TLS          bool   `json:"tls"`
	}
	eventually(t, "serve serves", func() bool {
		select {
		case <-i.exited:
			t.Fatalf("serve has ended: %v\n%s", i.cmd.ProcessState, i.stderr)
		default:
		}
		text := lineWith(i.stderr.String(), `"msg":"serving"`)
		return strings.HasSuffix(text, "\n") && json.Unmarshal([]byte(text), &line) == nil
	})
	i.endpoint, i.admin = "http://"+line.Address, "http://"+line.AdminAddress
	if line.TLS {
		i.endpoint = "https://" + line.Address
	}
	return i
}

// secure makes an SDK client that trusts the site's certificate alone.
func (s *site) secure(i *instance, key credentials) *kms.Client {
	trust := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}}}
	return kms.NewFromConfig(aws.Config{
		Region: region, Credentials: key, HTTPClient: trust, BaseEndpoint: &i.endpoint, RetryMaxAttempts: 1,
	})
}

// plain takes TLS out of the configuration: it serves on loopback.
func (s *site) plain(t testing.TB) {
	t.Helper()
	s.set(t, "tls:\n  certificate: "+s.path("tls.pem")+"\n  key: "+s.path("tls.key")+"\n", "")
}
