package integration_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

// openssl runs the command of that name, with which customers make and wrap material.
func openssl(t *testing.T, in []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	var out, problem bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &problem
	if err := cmd.Run(); err != nil {
		t.Fatalf("openssl %v: %v: %s", args, err, &problem)
	}
	return out.Bytes()
}

// wrapping is what openssl does for a wrapping algorithm.
var wrapping = map[types.AlgorithmSpec]struct {
	digest string
	hybrid bool
}{
	types.AlgorithmSpecRsaesOaepSha1:       {"sha1", false},
	types.AlgorithmSpecRsaesOaepSha256:     {"sha256", false},
	types.AlgorithmSpecRsaAesKeyWrapSha1:   {"sha1", true},
	types.AlgorithmSpecRsaAesKeyWrapSha256: {"sha256", true},
}

func wrapMaterial(t *testing.T, a types.AlgorithmSpec, spki, material []byte) []byte {
	t.Helper()
	public, direct, rest := filepath.Join(t.TempDir(), "public"), material, []byte(nil)
	if err := os.WriteFile(public, spki, 0o600); err != nil {
		t.Fatal(err)
	}
	if wrapping[a].hybrid {
		direct = openssl(t, nil, "rand", "32")
		rest = openssl(t, material, "enc", "-id-aes256-wrap-pad", "-K", hex.EncodeToString(direct), "-iv", "A65959A6")
	}
	digest := wrapping[a].digest
	return slices.Concat(openssl(t, direct, "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", public,
		"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:"+digest, "-pkeyopt", "rsa_mgf1_md:"+digest), rest)
}

// parameters asks until the account's rate, one a second, allows it.
func (c *client) parameters(t *testing.T, key string, a types.AlgorithmSpec, spec types.WrappingKeySpec) *kms.GetParametersForImportOutput {
	t.Helper()
	for {
		p, err := c.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{KeyId: &key, WrappingAlgorithm: a, WrappingKeySpec: spec})
		if err == nil {
			return p
		}
		if api := smithy.APIError(nil); !errors.As(err, &api) || api.ErrorCode() != "ThrottlingException" {
			t.Fatalf("GetParametersForImport: %v", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// TestImports brings material of openssl's in with the SDK, under every wrapping
// algorithm and with every wrapping key spec, and uses it.
func TestImports(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	ec := openssl(t, openssl(t, nil, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"), "pkcs8", "-topk8", "-nocrypt", "-outform", "DER")
	rsa := openssl(t, openssl(t, nil, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"), "pkcs8", "-topk8", "-nocrypt", "-outform", "DER")
	for _, tc := range []struct {
		spec     types.KeySpec
		usage    types.KeyUsageType
		a        types.AlgorithmSpec
		wrapping types.WrappingKeySpec
		material []byte
	}{
		{types.KeySpecSymmetricDefault, encrypts, types.AlgorithmSpecRsaesOaepSha256, types.WrappingKeySpecRsa4096, bytes.Repeat([]byte{5}, 32)},
		{types.KeySpecHmac256, macs, types.AlgorithmSpecRsaesOaepSha1, types.WrappingKeySpecRsa2048, bytes.Repeat([]byte{6}, 32)},
		{types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify, types.AlgorithmSpecRsaAesKeyWrapSha256, types.WrappingKeySpecRsa3072, ec},
		{types.KeySpecRsa2048, types.KeyUsageTypeSignVerify, types.AlgorithmSpecRsaAesKeyWrapSha1, types.WrappingKeySpecRsa2048, rsa},
	} {
		made, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: tc.spec, KeyUsage: tc.usage, Origin: types.OriginTypeExternal})
		if err != nil {
			t.Fatal(err)
		}
		key := *made.KeyMetadata.Arn
		if made.KeyMetadata.KeyState != types.KeyStatePendingImport || made.KeyMetadata.Origin != types.OriginTypeExternal {
			t.Errorf("CreateKey: %s", c.last.body)
		}
		p := c.parameters(t, key, tc.a, tc.wrapping)
		c.wantMembers(t, "KeyId", "ImportToken", "PublicKey", "ParametersValidTo")
		if left := time.Until(*p.ParametersValidTo); *p.KeyId != key || left > 24*time.Hour || left < 23*time.Hour || len(p.ImportToken) > 6144 {
			t.Errorf("GetParametersForImport: %s", c.last.body)
		}
		until := time.Now().Add(24 * time.Hour).Truncate(time.Second)
		in, err := c.ImportKeyMaterial(t.Context(), &kms.ImportKeyMaterialInput{
			KeyId: &key, ImportToken: hide(p.ImportToken), EncryptedKeyMaterial: hide(wrapMaterial(t, tc.a, p.PublicKey, hide(tc.material))), ValidTo: &until,
		})
		if err != nil {
			t.Fatalf("ImportKeyMaterial of %s: %v", tc.spec, err)
		}
		if *in.KeyId != key || (in.KeyMaterialId != nil) != (tc.usage == encrypts) {
			t.Errorf("ImportKeyMaterial: %s", c.last.body)
		}
		described, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key})
		if err != nil || described.KeyMetadata.KeyState != types.KeyStateEnabled || !described.KeyMetadata.ValidTo.Equal(until) {
			t.Errorf("DescribeKey: %v, %s", err, c.last.body)
		}
		if tc.usage == types.KeyUsageTypeSignVerify {
			want := openssl(t, tc.material, "pkey", "-inform", "DER", "-pubout", "-outform", "DER")
			if got, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: &key}); err != nil || !bytes.Equal(got.PublicKey, want) {
				t.Errorf("the public key of imported %s: %v", tc.spec, err)
			}
		}
		if _, err := c.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: &key}); err != nil {
			t.Errorf("DeleteImportedKeyMaterial: %v", err)
		}
		for _, e := range g.audit(t) {
			if e.EventName == "ImportKeyMaterial" && len(e.Resources) == 1 && e.Resources[0].ARN == key &&
				(e.RequestParameters["importToken"] != nil || e.RequestParameters["encryptedKeyMaterial"] != nil || e.RequestParameters["validTo"] != until.UTC().Format("Jan 2, 2006, 3:04:05 PM")) {
				t.Errorf("record %s", e.text)
			}
		}
	}
}
