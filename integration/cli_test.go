package integration_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A cli is the AWS CLI in the hands of an account's root. Its versions differ: what
// is asked for and looked at here, the oldest that is in use knows too.
type cli struct {
	endpoint    string
	environment []string
	dir         string // for files
}

func (i *instance) newCLI(t testing.TB, account string) *cli {
	t.Helper()
	key := i.keys[account]
	return &cli{
		endpoint: i.endpoint, dir: t.TempDir(),
		environment: append(awsEnvironment(), "AWS_ACCESS_KEY_ID="+key.accessKey, "AWS_SECRET_ACCESS_KEY="+key.secret, "AWS_DEFAULT_REGION="+region),
	}
}

// run runs a command of a service.
func (c *cli) run(t testing.TB, service, command string, arguments ...string) ran {
	t.Helper()
	cmd := exec.Command("aws", append([]string{service, command, "--endpoint-url", c.endpoint, "--output", "json"}, arguments...)...)
	cmd.Env = c.environment
	return finish(t, cmd)
}

// kms runs a command of KMS that prints an object.
func (c *cli) kms(t testing.TB, command string, arguments ...string) m {
	t.Helper()
	r := c.run(t, "kms", command, arguments...)
	r.wantSuccess(t, command)
	var printed m
	if err := json.Unmarshal([]byte(r.stdout), &printed); err != nil {
		t.Fatalf("%s printed %q: %v", command, r.stdout, err)
	}
	return printed
}

// silent runs a command of KMS that prints nothing.
func (c *cli) silent(t testing.TB, command string, arguments ...string) {
	t.Helper()
	r := c.run(t, "kms", command, arguments...)
	r.wantSuccess(t, command)
	if strings.TrimSpace(r.stdout) != "" {
		t.Errorf("%s printed %q, want nothing", command, r.stdout)
	}
}

// refused wants a command of KMS to fail as the CLI does for an error of the service.
func (c *cli) refused(t testing.TB, command, code, message string, arguments ...string) {
	t.Helper()
	c.refusedBy(t, "kms", command, code, message, arguments...)
}

// refusedBy wants a command of a service to fail: with 255, or 254 from version 2 of
// the CLI on, some of which tell how often they tried.
func (c *cli) refusedBy(t testing.TB, service, command, code, message string, arguments ...string) {
	t.Helper()
	r := c.run(t, service, command, arguments...)
	if r.code != 255 && r.code != 254 {
		t.Errorf("%s: exit code %d, want 255 or 254\n%s%s", command, r.code, r.stdout, r.stderr)
	}
	pattern := regexp.MustCompile(`An error occurred \(` + code + `\) when calling the \w+ operation(?: \(reached max retries: \d+\))?: ` + regexp.QuoteMeta(message))
	if !pattern.MatchString(r.stderr) {
		t.Errorf("%s says %q, want %s: %s", command, r.stderr, code, message)
	}
}

// file makes a file and returns it as an argument that is taken as bytes.
func (c *cli) file(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return "fileb://" + path
}

// bytesOf is a printed member that holds bytes.
func bytesOf(t testing.TB, printed m, member string) []byte {
	t.Helper()
	text, _ := printed[member].(string)
	content, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(content) == 0 {
		t.Fatalf("%s of %v is not base64: %v", member, printed, err)
	}
	return content
}

// wantPrinted wants printed members to have values; others may be there.
func wantPrinted(t testing.TB, what string, printed, want m) {
	t.Helper()
	got := maps.Clone(printed)
	maps.DeleteFunc(got, func(name string, _ any) bool { _, ok := want[name]; return !ok })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// createKey makes a key and returns its id and ARN.
func (c *cli) createKey(t testing.TB, arguments ...string) (id, keyARN string) {
	t.Helper()
	metadata := c.kms(t, "create-key", arguments...)["KeyMetadata"].(m)
	wantPrinted(t, "create-key", metadata, m{
		"AWSAccountId": own, "Enabled": true, "KeyUsage": "ENCRYPT_DECRYPT", "KeyState": "Enabled", "Origin": "AWS_KMS",
		"KeyManager": "CUSTOMER", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "EncryptionAlgorithms": []any{"SYMMETRIC_DEFAULT"},
	})
	return metadata["KeyId"].(string), metadata["Arn"].(string)
}

func TestCLIKeys(t *testing.T) {
	t.Parallel()
	needAWS(t)
	c := newGateway(t).newCLI(t, own)
	id, arn := c.createKey(t, "--description", "first", "--tags", "TagKey=team,TagValue=blue")
	second, secondARN := c.createKey(t)

	var listed []string
	for _, key := range c.kms(t, "list-keys", "--page-size", "1")["Keys"].([]any) {
		listed = append(listed, key.(m)["KeyId"].(string)+" "+key.(m)["KeyArn"].(string))
	}
	slices.Sort(listed)
	want := []string{id + " " + arn, second + " " + secondARN}
	slices.Sort(want)
	if !slices.Equal(listed, want) {
		t.Errorf("list-keys prints %q, want %q", listed, want)
	}

	c.silent(t, "update-key-description", "--key-id", id, "--description", "zweite für alle")
	c.silent(t, "disable-key", "--key-id", id)
	wantPrinted(t, "describe-key", c.kms(t, "describe-key", "--key-id", arn)["KeyMetadata"].(m), m{
		"KeyId": id, "Arn": arn, "Description": "zweite für alle", "Enabled": false, "KeyState": "Disabled",
	})
	c.refused(t, "encrypt", "DisabledException", arn+" is disabled.", "--key-id", id, "--plaintext", c.file(t, "plain", []byte("x")))
	c.silent(t, "enable-key", "--key-id", id)

	c.silent(t, "create-alias", "--alias-name", "alias/app", "--target-key-id", id)
	c.silent(t, "update-alias", "--alias-name", "alias/app", "--target-key-id", second)
	c.wantAliases(t, second, "alias/app")
	c.wantAliases(t, id)
	wantPrinted(t, "describe-key alias/app", c.kms(t, "describe-key", "--key-id", "alias/app")["KeyMetadata"].(m), m{"KeyId": second})
	c.silent(t, "delete-alias", "--alias-name", "alias/app")
	c.refused(t, "describe-key", "NotFoundException", "Alias "+aliasARN(own, "alias/app")+" is not found.", "--key-id", "alias/app")

	c.silent(t, "tag-resource", "--key-id", id, "--tags", "TagKey=cost,TagValue=4711")
	c.silent(t, "untag-resource", "--key-id", id, "--tag-keys", "team")
	wantPrinted(t, "list-resource-tags", c.kms(t, "list-resource-tags", "--key-id", id), m{
		"Tags": []any{m{"TagKey": "cost", "TagValue": "4711"}},
	})
}

// wantAliases wants a key to have exactly some aliases.
func (c *cli) wantAliases(t testing.TB, id string, names ...string) {
	t.Helper()
	var got []string
	for _, alias := range c.kms(t, "list-aliases", "--key-id", id)["Aliases"].([]any) {
		if target := alias.(m)["TargetKeyId"]; target != id {
			t.Errorf("list-aliases of %s prints one of %v", id, target)
		}
		got = append(got, alias.(m)["AliasName"].(string))
	}
	if !slices.Equal(got, names) {
		t.Errorf("list-aliases of %s prints %q, want %q", id, got, names)
	}
}

func TestCLICryptography(t *testing.T) {
	t.Parallel()
	needAWS(t)
	c := gateway(t).newCLI(t, own)
	id, arn := c.createKey(t)
	_, otherARN := c.createKey(t)
	plaintext := []byte("attack\x00at \xff dawn")
	sourceContext := []string{"--encryption-context", "purpose=demo,who=me"}

	encrypted := c.kms(t, "encrypt", append(sourceContext, "--key-id", id, "--plaintext", c.file(t, "plain", plaintext))...)
	wantPrinted(t, "encrypt", encrypted, m{"KeyId": arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"})
	blob := c.file(t, "cipher", bytesOf(t, encrypted, "CiphertextBlob"))
	c.wantDecrypts(t, blob, arn, plaintext, sourceContext...)
	c.refused(t, "decrypt", "InvalidCiphertextException", "", "--ciphertext-blob", blob)

	moved := c.kms(t, "re-encrypt", "--ciphertext-blob", blob, "--source-encryption-context", "purpose=demo,who=me",
		"--destination-key-id", otherARN, "--destination-encryption-context", "purpose=other")
	wantPrinted(t, "re-encrypt", moved, m{"SourceKeyId": arn, "KeyId": otherARN})
	c.wantDecrypts(t, c.file(t, "moved", bytesOf(t, moved, "CiphertextBlob")), otherARN, plaintext, "--encryption-context", "purpose=other")

	pair := c.kms(t, "generate-data-key", append(sourceContext, "--key-id", id, "--key-spec", "AES_256")...)
	wantPrinted(t, "generate-data-key", pair, m{"KeyId": arn})
	dataKey := bytesOf(t, pair, "Plaintext")
	if len(dataKey) != 32 {
		t.Errorf("generate-data-key printed %d bytes, want 32", len(dataKey))
	}
	c.wantDecrypts(t, c.file(t, "datakey", bytesOf(t, pair, "CiphertextBlob")), arn, dataKey, sourceContext...)

	alone := c.kms(t, "generate-data-key-without-plaintext", "--key-id", id, "--number-of-bytes", "17")
	wantPrinted(t, "generate-data-key-without-plaintext", alone, m{"KeyId": arn})
	if _, shown := alone["Plaintext"]; shown {
		t.Error("generate-data-key-without-plaintext printed it")
	}
	opened := c.kms(t, "decrypt", "--key-id", id, "--ciphertext-blob", c.file(t, "alone", bytesOf(t, alone, "CiphertextBlob")))
	if n := len(bytesOf(t, opened, "Plaintext")); n != 17 {
		t.Errorf("generate-data-key-without-plaintext made a key of %d bytes, want 17", n)
	}
	if n := len(bytesOf(t, c.kms(t, "generate-random", "--number-of-bytes", "21"), "Plaintext")); n != 21 {
		t.Errorf("generate-random printed %d bytes, want 21", n)
	}
}

// wantDecrypts wants a file to decrypt to something, under a key.
func (c *cli) wantDecrypts(t testing.TB, blob, keyARN string, plaintext []byte, arguments ...string) {
	t.Helper()
	decrypted := c.kms(t, "decrypt", append(arguments, "--ciphertext-blob", blob)...)
	wantPrinted(t, "decrypt", decrypted, m{"KeyId": keyARN, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"})
	if got := bytesOf(t, decrypted, "Plaintext"); !bytes.Equal(got, plaintext) {
		t.Errorf("decrypted to %q, want %q", got, plaintext)
	}
}

func TestCLIPoliciesAndIdentity(t *testing.T) {
	t.Parallel()
	needAWS(t)
	i := gateway(t)
	c := i.newCLI(t, own)
	id, _ := c.createKey(t)
	wantPrinted(t, "list-key-policies", c.kms(t, "list-key-policies", "--key-id", id), m{"PolicyNames": []any{"default"}})
	if policy := c.policy(t, id); !strings.Contains(policy, rootOf(own)) {
		t.Errorf("get-key-policy prints %s, want it to name the root", policy)
	}
	document := fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [{"Sid": "all", "Effect": "Allow", "Principal": {"AWS": %q}, "Action": "kms:*", "Resource": "*"}]}`, rootOf(own))
	c.silent(t, "put-key-policy", "--key-id", id, "--policy-name", "default", "--policy", document)
	wantSameJSON(t, "get-key-policy", c.policy(t, id), document)
	c.refused(t, "put-key-policy", "MalformedPolicyDocumentException", "", "--key-id", id, "--policy-name", "default", "--policy", "{}")

	r := c.run(t, "sts", "get-caller-identity")
	r.wantSuccess(t, "sts get-caller-identity")
	wantJSON(t, r.stdout, m{"UserId": own, "Account": own, "Arn": rootOf(own)})

	missing := "11111111-2222-3333-4444-555555555555"
	c.refused(t, "describe-key", "NotFoundException", "Key '"+keyARN(own, missing)+"' does not exist", "--key-id", missing)
	c.refused(t, "generate-random", "ValidationException", "1 validation error detected: Value '2000' at 'numberOfBytes' failed", "--number-of-bytes", "2000")
	forged := *c
	forged.environment = append(slices.Clone(c.environment), "AWS_SECRET_ACCESS_KEY=not/the/secret")
	forged.refused(t, "list-keys", "InvalidSignatureException", "The request signature we calculated does not match")

	if !knowsEndpoints(t) {
		t.Log("this AWS CLI does not know AWS_ENDPOINT_URL_KMS")
		return
	}
	for _, command := range [][]string{{"kms", "list-key-policies", "--key-id", id}, {"sts", "get-caller-identity"}} {
		cmd := exec.Command("aws", command...)
		cmd.Env = append(awsEnvironment(), i.environment(own)[len(os.Environ()):]...)
		finish(t, cmd).wantSuccess(t, fmt.Sprintf("aws %v with the variables of dev.env alone", command))
	}
}

// wantSameJSON wants two texts to say the same, however they are laid out.
func wantSameJSON(t testing.TB, what, got, want string) {
	t.Helper()
	var gotValue, wantValue any
	if err := errors.Join(json.Unmarshal([]byte(got), &gotValue), json.Unmarshal([]byte(want), &wantValue)); err != nil {
		t.Fatalf("%s: %v in %s", what, err, got)
	}
	if diff := cmp.Diff(wantValue, gotValue); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// policy is the policy of a key.
func (c *cli) policy(t testing.TB, id string) string {
	t.Helper()
	policy, _ := c.kms(t, "get-key-policy", "--key-id", id, "--policy-name", "default")["Policy"].(string)
	return policy
}

// knowsEndpoints tells whether the AWS CLI heeds AWS_ENDPOINT_URL_KMS, which came
// with versions 1.29 and 2.13.
func knowsEndpoints(t testing.TB) bool {
	t.Helper()
	r := finish(t, exec.Command("aws", "--version"))
	found := regexp.MustCompile(`aws-cli/(\d+)\.(\d+)`).FindStringSubmatch(r.stdout + r.stderr)
	if found == nil {
		t.Fatalf("aws --version prints %q", r.stdout)
	}
	minor, err := strconv.Atoi(found[2])
	if err != nil {
		t.Fatal(err)
	}
	return found[1] == "1" && minor >= 29 || found[1] == "2" && minor >= 13 || found[1] > "2"
}
