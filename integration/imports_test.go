package integration_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
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

// importWhole brings PKCS#8 in under OAEP, with no time of expiry.
func (c *client) importWhole(t *testing.T, key string, material []byte) error {
	t.Helper()
	p := c.parameters(t, key, types.AlgorithmSpecRsaesOaepSha256, types.WrappingKeySpecRsa2048)
	_, err := c.ImportKeyMaterial(t.Context(), &kms.ImportKeyMaterialInput{
		KeyId: &key, ImportToken: hide(p.ImportToken), ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
		EncryptedKeyMaterial: hide(wrapMaterial(t, types.AlgorithmSpecRsaesOaepSha256, p.PublicKey, hide(material))),
	})
	return err
}

// TestImportOfAKeyThatLivesInTheToken: SoftHSM does not wrap Ed25519 keys. The object
// comes and goes with the material.
func TestImportOfAKeyThatLivesInTheToken(t *testing.T) {
	t.Parallel()
	c := gateway(t).newClient(own)
	made, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{
		KeySpec: types.KeySpecEccNistEdwards25519, KeyUsage: types.KeyUsageTypeSignVerify, Origin: types.OriginTypeExternal,
	})
	if err != nil {
		t.Fatal(err)
	}
	key := made.KeyMetadata.Arn
	material := openssl(t, nil, "genpkey", "-algorithm", "ED25519", "-outform", "DER")
	spki := openssl(t, material, "pkey", "-inform", "DER", "-pubout", "-outform", "DER")
	public := ed25519.PublicKey(spki[len(spki)-ed25519.PublicKeySize:])
	sign := func() error {
		out, err := c.Sign(t.Context(), &kms.SignInput{
			KeyId: key, Message: []byte("message"), MessageType: types.MessageTypeRaw, SigningAlgorithm: types.SigningAlgorithmSpecEd25519Sha512,
		})
		if err == nil && !ed25519.Verify(public, []byte("message"), out.Signature) {
			t.Error("the signature of an imported key does not verify")
		}
		return err
	}
	for range 2 {
		if err := c.importWhole(t, *key, material); err != nil {
			t.Fatalf("ImportKeyMaterial: %v", err)
		}
		if err := sign(); err != nil {
			t.Errorf("Sign: %v", err)
		}
		if err := c.importWhole(t, *key, material); err != nil { // again, while it is there
			t.Errorf("ImportKeyMaterial of what is there: %v", err)
		}
		wantErrorCode(t, "ImportKeyMaterial of another key", c.importWhole(t, *key, openssl(t, nil, "genpkey", "-algorithm", "ED25519", "-outform", "DER")),
			"IncorrectKeyMaterialException")
		if err := sign(); err != nil {
			t.Errorf("Sign after refusals: %v", err)
		}
		if _, err := c.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: key}); err != nil {
			t.Errorf("DeleteImportedKeyMaterial: %v", err)
		}
		wantErrorCode(t, "Sign without material", sign(), "KMSInvalidStateException")
	}
	wantErrorCode(t, "ImportKeyMaterial of another key afterwards", c.importWhole(t, *key, openssl(t, nil, "genpkey", "-algorithm", "ED25519", "-outform", "DER")),
		"IncorrectKeyMaterialException")
}

// TestImports brings material of openssl's in with the SDK, under every wrapping
// algorithm and with every wrapping key spec, and uses it.
func TestImports(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	ec := openssl(t, openssl(t, nil, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"), "pkcs8", "-topk8", "-nocrypt", "-outform", "DER")
	edwards := openssl(t, nil, "genpkey", "-algorithm", "ED25519", "-outform", "DER")
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
		{types.KeySpecEccNistEdwards25519, types.KeyUsageTypeSignVerify, types.AlgorithmSpecRsaesOaepSha256, types.WrappingKeySpecRsa2048, edwards},
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

// TestImportedKeysRotate by the SDK to new material of openssl's.
func TestImportedKeysRotate(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	x := g.newImporting(t, own)
	g.bring(t, x, 7)
	sealed := c.seal(t, x.key)
	in := g.wrapped(t, x, 8)
	until := time.Now().Add(48 * time.Hour).Truncate(time.Second)
	in.ImportType, in.KeyMaterialDescription = types.ImportTypeNewKeyMaterial, aws.String("of this year")
	in.ExpirationModel, in.ValidTo = types.ExpirationModelTypeKeyMaterialExpires, &until
	imported, err := c.ImportKeyMaterial(t.Context(), &in)
	if err != nil {
		t.Fatal(err)
	}
	c.wantMembers(t, "KeyId", "KeyMaterialId")
	waits := c.listed(t, x.key)[1]
	if waits.KeyMaterialState != types.KeyMaterialStatePendingRotation || *waits.KeyMaterialId != *imported.KeyMaterialId || waits.ImportState != types.ImportStateImported ||
		*waits.KeyMaterialDescription != "of this year" || waits.ExpirationModel != in.ExpirationModel || !waits.ValidTo.Equal(until) || waits.RotationDate != nil {
		t.Errorf("what waits is %+v", waits)
	}
	more := g.wrapped(t, x, 9)
	more.ImportType = types.ImportTypeNewKeyMaterial
	if _, err = c.ImportKeyMaterial(t.Context(), &more); err == nil || !strings.Contains(err.Error(), "because another key material (id: "+*imported.KeyMaterialId+") is pending rotation.") {
		t.Errorf("import of more: %v", err)
	}
	if _, err := c.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &x.key}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rotation", func() bool { return c.listed(t, x.key)[1].KeyMaterialState == types.KeyMaterialStateCurrent })
	described, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &x.key})
	if err != nil || *described.KeyMetadata.CurrentKeyMaterialId != *imported.KeyMaterialId || !described.KeyMetadata.ValidTo.Equal(until) {
		t.Errorf("after the rotation: %v, %s", err, c.last.body)
	}
	first := c.listed(t, x.key)[0].KeyMaterialId
	for blob, material := range map[*[]byte]*string{sealed: first, c.seal(t, x.key): imported.KeyMaterialId} {
		if opened, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: *blob}); err != nil || string(opened.Plaintext) != "secret" || *opened.KeyMaterialId != *material {
			t.Errorf("Decrypt: %+v, %v; want secret by %s", opened, err, *material)
		}
	}
	want := map[string]any{
		"keyId": idOf(x.key), "rotationType": "ON_DEMAND", "keyOrigin": "EXTERNAL",
		"previousKeyMaterialId": *first, "currentKeyMaterialId": *imported.KeyMaterialId,
	}
	var got map[string]any
	for _, e := range g.audit(t) {
		if e.EventName == "RotateKey" && e.ServiceEventDetails["keyId"] == idOf(x.key) {
			got = e.ServiceEventDetails
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("the rotation is on record with %v, want %v", got, want)
	}
	if _, err := c.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: &x.key, KeyMaterialId: first}); err != nil {
		t.Error(err)
	}
	if _, err = c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &x.key, Plaintext: []byte("secret")}); err == nil || !strings.Contains(err.Error(), "is pending import.") {
		t.Errorf("without the old material: %v", err)
	}
}
