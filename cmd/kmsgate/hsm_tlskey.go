package main

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/ThalesGroup/crypto11"

	"kmsgate/metadata/audit"
)

const hsmTLSKeyUsage = `Makes the key pair of the API's TLS certificate in a token, where it stays: ECDSA on
P-256, for signatures only, not extractable. It writes the certificate request for
your CA, or a certificate that signs itself, and prints the lines that make serve
use the key. The audit log has it. It is refused while the token has a key of the
same label; -new makes another one beside it, for a new certificate.`

// defaultTLSLabel is the CKA_LABEL of the API's key.
const defaultTLSLabel = "kmsgate/tls"

// tlsKeyOptions are the flags of hsm tls-key.
type tlsKeyOptions struct {
	token      string
	names      []string // DNS names and IP addresses
	subject    string
	label      string
	request    string // file
	selfSigned string // file
	days       int
	another    bool
}

func runHSMTLSKey(ctx context.Context, p *program, args []string) error {
	set := p.flags("hsm tls-key -config FILE -name NAME[,..] -csr FILE | -self-signed FILE", hsmTLSKeyUsage)
	path := set.String("config", "", "configuration `file` (required)")
	names := set.String("name", "", "DNS `names` and IP addresses of the API, separated by commas (required)")
	var o tlsKeyOptions
	set.StringVar(&o.token, "token", "", "`name` of the token; not needed if there is one only")
	set.StringVar(&o.subject, "subject", "", "common `name` of the subject; without it the first of -name")
	set.StringVar(&o.label, "label", defaultTLSLabel, "CKA_LABEL of the key pair, a `text`")
	set.StringVar(&o.request, "csr", "", "`file` for the certificate request")
	set.StringVar(&o.selfSigned, "self-signed", "", "`file` for a certificate that signs itself")
	set.IntVar(&o.days, "days", 365, "`number` of days that this one is valid")
	set.BoolVar(&o.another, "new", false, "make another key, though there is one of that label")
	if err := p.parse(set, args); err != nil {
		return err
	}
	o.names = strings.Split(*names, ",")
	if o.subject == "" {
		o.subject = o.names[0]
	}
	if err := o.check(); err != nil {
		return err
	}
	return p.withDatabase(ctx, *path, func(i *installation) error {
		tokens, err := i.config.tokensNamed(o.token)
		if err != nil {
			return err
		}
		if len(tokens) > 1 {
			return usagef("-token is missing: several tokens are configured")
		}
		return p.makeTLSKey(ctx, i, tokens[0], &o)
	})
}

var (
	// dnsPattern is a DNS name, the first label perhaps a wildcard (RFC 6125, 6.4.3).
	dnsPattern = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)
	// labelPattern is printable ASCII.
	labelPattern = regexp.MustCompile(`^[!-~]([ -~]{0,62}[!-~])?$`)
)

// Bounds of a certificate: ub-common-name of RFC 5280, appendix A.1; and how long one
// that nobody can revoke may be good for.
const (
	maxCommonName = 64
	maxDays       = 3650
)

func (o *tlsKeyOptions) check() error {
	for _, name := range o.names {
		if net.ParseIP(name) == nil && (!dnsPattern.MatchString(name) || len(name) > 253) {
			return usagef("-name has %q: a DNS name or an IP address", name)
		}
	}
	switch {
	case len(o.subject) > maxCommonName:
		return usagef("the common name %q has more than %d characters: give a shorter one with -subject", o.subject, maxCommonName)
	case !labelPattern.MatchString(o.label):
		return usagef("-label is %q: 1 to 64 printable characters", o.label)
	case o.label != defaultTLSLabel && (strings.HasPrefix(o.label, labelOfKMSKeys) || strings.HasPrefix(o.label, labelOfOurs)):
		return usagef("-label is %q: that is what keys of another kind are called", o.label)
	case (o.request == "") == (o.selfSigned == ""):
		return usagef("either -csr or -self-signed is needed: the file to write")
	case o.days < 1 || o.days > maxDays:
		return usagef("-days is %d: 1 to %d", o.days, maxDays)
	}
	return nil
}

// file is the one that is written.
func (o *tlsKeyOptions) file() string { return o.request + o.selfSigned }

// makeTLSKey makes the key pair and what goes with it, and leaves nothing of either
// if it fails.
func (p *program) makeTLSKey(ctx context.Context, i *installation, t configuredToken, o *tlsKeyOptions) error {
	f, err := os.OpenFile(o.file(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // requests and certificates are public
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already, and is not written over", o.file())
	}
	if err != nil {
		return err
	}
	id := newCKAID()
	err = i.withCrypto11(ctx, "hsm tls-key", t, func(c *crypto11.Context, serial string) error {
		return i.makeTLSKeyIn(ctx, c, serial, t, o, id, f)
	})
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(o.file()))
	}
	p.explainTLSKey(t, o, id)
	return nil
}

func (i *installation) makeTLSKeyIn(ctx context.Context, c *crypto11.Context, serial string, t configuredToken, o *tlsKeyOptions, id []byte, to io.Writer) error {
	if err := o.checkLabel(c); err != nil {
		return err
	}
	key, err := generateTLSKey(c, id, o.label)
	if err != nil {
		return fmt.Errorf("make the key pair: %w", err)
	}
	err = checkTLSKey(c, key)
	var made *pem.Block
	if err == nil {
		made, err = o.certify(key)
	}
	if err == nil {
		err = pem.Encode(to, made)
	}
	if err == nil {
		err = i.record(ctx, adminEvent("hsm tls-key", "CreateTLSKey", "", "", time.Now(), audit.Members{
			audit.String("token", t.Name), audit.String("serialNumber", serial), audit.String("ckaId", hex.EncodeToString(id)),
			audit.String("label", o.label), audit.Strings("names", o.names), audit.Bool("selfSigned", o.selfSigned != ""),
		}))
	}
	if err == nil {
		return nil
	}
	if left := key.Delete(); left != nil {
		return fmt.Errorf("%w; the key pair %x is left in the token: %w", err, id, left)
	}
	return err
}

// checkLabel refuses a second key of the same label, unless it is asked for.
func (o *tlsKeyOptions) checkLabel(c *crypto11.Context) error {
	if o.another {
		return nil
	}
	there, err := c.FindPrivateKeys(nil, []byte(o.label))
	if err != nil {
		return fmt.Errorf("look for a key with the label %s: %w", o.label, err)
	}
	var ids []string
	for _, key := range there {
		id, err := c.GetAttribute(key, crypto11.CkaId)
		if err != nil {
			return fmt.Errorf("a key with the label %s: %w", o.label, err)
		}
		ids = append(ids, hex.EncodeToString(id.Value))
	}
	if len(ids) > 0 {
		return fmt.Errorf("there is a key with the label %s already (CKA_ID %s); -new makes another one beside it", o.label, strings.Join(ids, ", "))
	}
	return nil
}

// generateTLSKey makes the key pair. MODIFIABLE is left to the token: crypto11 gives
// it the attributes in no order, and some tokens refuse those after MODIFIABLE.
func generateTLSKey(c *crypto11.Context, id []byte, label string) (crypto11.Signer, error) {
	public, err := crypto11.NewAttributeSetWithIDAndLabel(id, []byte(label))
	if err != nil {
		return nil, err
	}
	private := public.Copy()
	for set, flags := range map[*crypto11.AttributeSet]map[crypto11.AttributeType]bool{&public: tlsPublicFlags, &private: tlsPrivateFlags} {
		for kind, on := range flags {
			if err := set.Set(kind, on); err != nil {
				return nil, err
			}
		}
	}
	return c.GenerateECDSAKeyPairWithAttributes(public, private, elliptic.P256())
}

// The attributes of the two halves of the key pair.
var (
	tlsPublicFlags = map[crypto11.AttributeType]bool{
		crypto11.CkaToken: true, crypto11.CkaPrivate: false,
		crypto11.CkaVerify: true, crypto11.CkaEncrypt: false, crypto11.CkaWrap: false,
	}
	tlsPrivateFlags = map[crypto11.AttributeType]bool{
		crypto11.CkaToken: true, crypto11.CkaPrivate: true, crypto11.CkaSensitive: true, crypto11.CkaExtractable: false,
		crypto11.CkaSign: true, crypto11.CkaDecrypt: false, crypto11.CkaUnwrap: false, crypto11.CkaDerive: false,
	}
)

// checkTLSKey refuses a key that the token, whatever it was told, would give out.
func checkTLSKey(c *crypto11.Context, key crypto11.Signer) error {
	got, err := c.GetAttributes(key, []crypto11.AttributeType{crypto11.CkaSensitive, crypto11.CkaExtractable})
	if err != nil {
		return fmt.Errorf("read the attributes of the new key: %w", err)
	}
	if !isTrue(got[crypto11.CkaSensitive].Value) || isTrue(got[crypto11.CkaExtractable].Value) {
		return errors.New("the token has made the key such that it can be taken out: use another token for it")
	}
	return nil
}

// isTrue is a CK_BBOOL.
func isTrue(value []byte) bool { return len(value) == 1 && value[0] != 0 }

// certify makes the request, or the certificate that signs itself, and verifies what
// the token has signed.
func (o *tlsKeyOptions) certify(key crypto.Signer) (*pem.Block, error) {
	subject := pkix.Name{CommonName: o.subject}
	var dns []string
	var ips []net.IP
	for _, name := range o.names {
		if ip := net.ParseIP(name); ip != nil {
			ips = append(ips, ip)
		} else {
			dns = append(dns, name)
		}
	}
	if o.request != "" {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject, DNSNames: dns, IPAddresses: ips}, key)
		if err != nil {
			return nil, fmt.Errorf("sign the certificate request: %w", err)
		}
		parsed, err := x509.ParseCertificateRequest(der)
		if err == nil {
			err = parsed.CheckSignature()
		}
		return &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}, err
	}
	serial := new(big.Int).SetBytes(newCKAID()) // 128 random bits
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: subject, DNSNames: dns, IPAddresses: ips,
		NotBefore: now.Add(-clockMargin), NotAfter: now.AddDate(0, 0, o.days),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key) // verifies the signature
	if err != nil {
		return nil, fmt.Errorf("sign the certificate: %w", err)
	}
	return &pem.Block{Type: "CERTIFICATE", Bytes: der}, nil
}

// clockMargin lets clients use a new certificate whose clocks are a little late.
const clockMargin = 5 * time.Minute

// explainTLSKey says what there is now and what comes next.
func (p *program) explainTLSKey(t configuredToken, o *tlsKeyOptions, id []byte) {
	fmt.Fprintf(p.stdout, "The key pair is in token %s, with CKA_ID %x and label %s.\n\nNext:\n\n", t.Name, id, o.label)
	certificate := o.selfSigned
	if o.request != "" {
		certificate = "FILE"
		fmt.Fprintf(p.stdout, "- Have your CA sign %s for server authentication. FILE is the certificate that it\n"+
			"  gives you, in PEM, with those of its chain after it.\n", o.request)
	} else {
		if absolute, err := filepath.Abs(certificate); err == nil {
			certificate = absolute
		}
		fmt.Fprintf(p.stdout, "- Give clients %s to trust; it signs itself.\n", o.selfSigned)
	}
	fmt.Fprintf(p.stdout, `- Put this into the configuration, in place of tls, and start kmsgate serve again:

tls:
  certificate: %s
  token: %s
  key_id: "%x"
`, certificate, t.Name, id)
}
