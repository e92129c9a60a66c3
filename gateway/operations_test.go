package gateway

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
)

// sdkOperations are the operations of KMS as the newest SDK has them, with the
// types of their inputs.
func sdkOperations(t *testing.T) map[string]reflect.Type {
	t.Helper()
	found := map[string]reflect.Type{}
	client := reflect.TypeFor[*kms.Client]()
	for i := range client.NumMethod() {
		method := client.Method(i)
		if name, ok := strings.CutSuffix(method.Name, "Input"); ok {
			t.Fatalf("method %s looks like a type", name)
		}
		// func(*Client, context.Context, *XInput, ...func(*Options)) (*XOutput, error)
		if method.Type.NumIn() == 4 && method.Type.In(2).String() == "*kms."+method.Name+"Input" {
			found[method.Name] = method.Type.In(2).Elem()
		}
	}
	if len(found) < 50 {
		t.Fatalf("the SDK has %d operations, want all of them", len(found))
	}
	return found
}

// TestEverySDKOperationIsServedOrRefused shows what a new SDK has added.
func TestEverySDKOperationIsServedOrRefused(t *testing.T) {
	t.Parallel()
	sdk := sdkOperations(t)
	known := map[string]int{}
	for _, o := range operations {
		if o.service == serviceKMS {
			known[o.name]++
		}
	}
	for _, r := range refusals {
		known[r.operation]++
		if r.reason == "" {
			t.Errorf("%s is refused without a reason", r.operation)
		}
	}
	for name := range sdk {
		if known[name] != 1 {
			t.Errorf("%s stands %d times in operations and refusals, want once", name, known[name])
		}
	}
	for name := range known {
		if _, ok := sdk[name]; !ok {
			t.Logf("%s is known here and not to this SDK", name)
		}
	}
}

// TestRequestMembersAreTheSDKs holds each request type against the SDK's: a member
// that is missing would be refused as unknown.
func TestRequestMembersAreTheSDKs(t *testing.T) {
	t.Parallel()
	sdk := sdkOperations(t)
	for _, o := range operations {
		input, ok := sdk[o.name]
		if o.service != serviceKMS || !ok {
			continue
		}
		var want []string
		for _, f := range reflect.VisibleFields(input) {
			if f.IsExported() {
				want = append(want, f.Name)
			}
		}
		for _, name := range want {
			if _, ok := o.fields[name]; !ok {
				t.Errorf("%s has no member %s", o.name, name)
			}
		}
		for name := range o.fields {
			if !slices.Contains(want, name) {
				t.Errorf("%s has a member %s that the SDK does not know", o.name, name)
			}
		}
	}
}

// secretMembers must not be recorded, whatever their type here.
var secretMembers = []string{
	"Plaintext", "CiphertextBlob", "Message", "Signature", "Mac", "EncryptedKeyMaterial", "ImportToken", "GrantTokens", "GrantToken",
	"KeyStorePassword", "XksProxyAuthenticationCredential", "Recipient", "PublicKey", "SharedSecretCiphertextBlob", "TokenCode", "ProvidedContexts",
	"WebIdentityToken",
}

func TestRowsAreSound(t *testing.T) {
	t.Parallel()
	for _, o := range operations {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			checkRecords(t, &o)
			for i := range o.targets {
				checkTarget(t, &o, &o.targets[i])
			}
			if o.bucket == "" {
				t.Error("no bucket")
			}
			if (o.bucket == anyCrypto) != (o.draws != nil) {
				t.Errorf("bucket %q, with rates of its keys: %v", o.bucket, o.draws != nil)
			}
			if _, ok := o.fields[o.makes]; o.makes != "" && !ok {
				t.Errorf("makes a key of %s, which the request does not have", o.makes)
			}
			if _, tags := o.fields["Tags"]; tags && len(o.targets) < 2 && !strings.HasPrefix(o.name, "Tag") {
				t.Error("makes something with tags, and nobody is asked whether the caller may tag it")
			}
			if o.service == serviceKMS && len(o.targets) == 0 {
				t.Error("no target: nobody is asked whether the caller may")
			}
			if o.readOnly && (strings.HasPrefix(o.name, "Create") || strings.HasPrefix(o.name, "Update") || strings.HasPrefix(o.name, "Put") || strings.HasPrefix(o.name, "Delete")) {
				t.Error("is read-only by its row and not by its name")
			}
		})
	}
}

// unrecorded are the operations of whose requests CloudTrail keeps nothing.
var unrecorded = []string{"RetireGrant"}

// checkRecords checks that what is recorded exists, is no secret and can be written.
func checkRecords(t *testing.T, o *operation) {
	t.Helper()
	in := o.newRequest()
	for _, name := range o.records {
		if _, ok := o.fields[name]; !ok {
			t.Errorf("records %s, which the request does not have", name)
			continue
		}
		v := o.member(in, name)
		switch v.Interface().(type) {
		case kmsapi.Secret, kmsapi.Blob:
			t.Errorf("records %s, a %s", name, v.Type())
		}
		if slices.Contains(secretMembers, name) {
			t.Errorf("records %s", name)
		}
		if _, ok := memberOf(name, filled(v.Type())); !ok {
			t.Errorf("records %s, and a record has no form for a %s", name, v.Type())
		}
	}
	for name := range o.fields {
		if !slices.Contains(unrecorded, o.name) && !slices.Contains(o.records, name) && !slices.Contains(secretMembers, name) {
			t.Errorf("%s is neither recorded nor a secret", name)
		}
	}
}

// filled is a value that is not the zero value.
func filled(t reflect.Type) reflect.Value {
	switch v := reflect.New(t).Elem(); t.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		v.Elem().Set(filled(t.Elem()))
		return v
	case reflect.Slice:
		return reflect.Append(v, reflect.Zero(t.Elem()))
	case reflect.Map:
		v.Set(reflect.MakeMap(t))
		return v
	case reflect.Bool:
		v.SetBool(true)
		return v
	case reflect.String:
		v.SetString("x")
		return v
	case reflect.Int32:
		v.SetInt(1)
		return v
	default:
		return v
	}
}

// checkTarget checks that the members a target names exist and that it can admit.
func checkTarget(t *testing.T, o *operation, target *target) {
	t.Helper()
	for _, name := range []string{target.member, target.blob, target.with} {
		if _, ok := o.fields[name]; name != "" && !ok {
			t.Errorf("a target names %s, which the request does not have", name)
		}
	}
	if target.action == "" {
		t.Error("a target without an action")
	}
	if (target.kind == onCiphertext) != (target.blob != "") {
		t.Errorf("kind %d with blob %q", target.kind, target.blob)
	}
	if target.kind == onKey && (target.member == "" || target.forms == 0) {
		t.Errorf("a key that is named by member %q in forms %b", target.member, target.forms)
	}
	if target.usage != "" && target.states == 0 {
		t.Error("uses a key in every state")
	}
	if target.kind == onCiphertext {
		if _, ok := o.fields[target.side+"EncryptionAlgorithm"]; !ok {
			t.Errorf("opens a ciphertext without a member %sEncryptionAlgorithm", target.side)
		}
		if _, ok := o.fields["DryRunModifiers"]; !ok {
			t.Error("opens a ciphertext without DryRunModifiers")
		}
	}
	if _, hasContext := o.fields[target.side+"EncryptionContext"]; target.usage == keyspec.EncryptDecrypt && !hasContext {
		t.Errorf("uses a key without a member %sEncryptionContext", target.side)
	}
}

// TestMemberPanicsOverUnknownNames shows that a row with a wrong name is found.
func TestMemberPanicsOverUnknownNames(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("no panic over a member that the request does not have")
		}
	}()
	o := operations[0]
	o.member(o.newRequest(), "NoSuchMember")
}
