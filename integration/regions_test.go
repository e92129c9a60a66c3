package integration_test

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/google/go-cmp/cmp"

	"kmsgate/softhsm"
)

// regional is a region of a gateway, with something encrypted in it.
type regional struct {
	name, token string
	*client
	sealed
}

// sealIn makes a key in a region and encrypts something under it.
func (i *instance) sealIn(t testing.TB, name, token string) regional {
	t.Helper()
	r := regional{name: name, token: token, client: i.clientIn(name, i.keys[own])}
	key, err := r.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	r.sealed = sealed{key: *key.KeyMetadata.Arn, plaintext: []byte("of " + name)}
	out, err := r.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &r.key, Plaintext: r.plaintext})
	if err != nil {
		t.Fatal(err)
	}
	r.ciphertext = out.CiphertextBlob
	return r
}

// TestRegionsHaveTokensOfTheirOwn serves two regions, each with a token, and then a
// third.
func TestRegionsHaveTokensOfTheirOwn(t *testing.T) {
	t.Parallel()
	l := launch{dir: newPlace(t), arguments: []string{"-regions", "us-east-1,eu-west-1"}}
	i := l.start(t)
	regions := []regional{i.sealIn(t, "us-east-1", "kmsgate"), i.sealIn(t, "eu-west-1", "kmsgate-eu-west-1")}
	wantApart(t, regions)
	i.wantOwnTokens(t, regions)
	doctor := run(t, i.binary, "doctor", "-config", filepath.Join(l.dir, "kmsgate.yaml"), "-json", "-all")
	doctor.wantSuccess(t, "doctor of two regions")
	if d := parseDiagnosis(t, doctor); d.Problems+d.Warnings > 0 || d.KeyMaterialsOpened != 2 {
		t.Errorf("doctor: %s", doctor.stdout)
	}
	keys := i.keys
	i.mustStop(t)

	for _, names := range []string{"us-east-1,eu-west-1", "ap-south-1,eu-west-1", "us-east-1"} {
		l.arguments = []string{"-regions", names}
		i = l.start(t)
		if diff := cmp.Diff(keys, i.keys, cmp.AllowUnexported(credentials{})); diff != "" {
			t.Errorf("credentials after a start with -regions %s (-want +got):\n%s", names, diff)
		}
		if len(regions) == 2 && strings.Contains(names, "ap-south-1") {
			regions = append(regions, i.sealIn(t, "ap-south-1", "kmsgate-ap-south-1"))
		}
		for n := range regions {
			regions[n].client = i.clientIn(regions[n].name, i.keys[own])
		}
		wantApart(t, regions)
		i.wantOwnTokens(t, regions)
		i.mustStop(t)
	}
}

// TestSitesHaveSeveralTokens has kmsgate init and serve two tokens of one library.
func TestSitesHaveSeveralTokens(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	provisioning.Lock()
	second, err := softhsm.Provision(s.path("softhsm"), "second")
	provisioning.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	s.set(t, "#- name: second\n      #  label: partition-2\n      #  pin_file: /etc/kmsgate/second.pin\n",
		"- name: second\n        label: second\n        pin_file: "+second.PINFile+"\n")
	s.set(t, "residency: wrapped\n", "residency: wrapped\n  - {name: eu-west-1, store: default-eu-west-1, token: second}\n")
	shim, err := softhsm.NewShim(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	s.set(t, s.token.Module, shim.Module)
	keys := map[string]credentials{own: s.prepare(t)}
	i := s.serve(t, keys)
	regions := []regional{i.sealIn(t, "us-east-1", "kmsgate"), i.sealIn(t, "eu-west-1", "second")}
	wantOneLost(t, shim, regions, second.Serial)
	wantApart(t, regions)
	i.wantOwnTokens(t, regions)
	s.kmsgate(t, "hsm", "login").wantSuccess(t, "hsm login to two tokens")
	i.kill()
	i = s.serve(t, keys)
	for n := range regions {
		regions[n].client = i.clientIn(regions[n].name, keys[own])
	}
	wantApart(t, regions)

	s.set(t, "label: second\n", `serial: "`+s.token.Serial+`"`+"\n")
	s.kmsgate(t, "serve").wantFailure(t, "serve of one token under two names", 1, "token second", "is meant twice")
}

// wantOneLost takes the second region's token away for a while, and wants the first
// one not to notice.
func wantOneLost(t *testing.T, shim *softhsm.Shim, regions []regional, serial string) {
	t.Helper()
	slot, err := strconv.ParseUint(serial[len(serial)-8:], 16, 64) // as SoftHSM numbers them
	if err != nil {
		t.Fatal(err)
	}
	works := func(r regional) error {
		_, err := r.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: r.ciphertext})
		return err
	}
	await := func(what string, holds func(error) bool) {
		t.Helper()
		deadline := time.Now().Add(startTimeout)
		for !holds(works(regions[1])) {
			if err := works(regions[0]); err != nil {
				t.Errorf("Decrypt in %s: %v", regions[0].name, err)
			}
			if time.Now().After(deadline) {
				t.Fatalf("never: %s", what)
			}
		}
	}
	initialised := shim.Calls(softhsm.Initialize)
	shim.Remove(uint(slot & 0x7FFFFFFF))
	await("the second region's token is lost", func(err error) bool { return err != nil })
	wantErrorCode(t, "Decrypt while the token is away", works(regions[1]), "KMSInternalException")
	shim.PutBack()
	await("the second region's token is back", func(err error) bool { return err == nil })
	if n := shim.Calls(softhsm.Initialize); n != initialised {
		t.Errorf("C_Initialize was called %d times for a token that was lost", n-initialised)
	}
}

// wantApart wants each region to have its key, and no other region to know it.
func wantApart(t *testing.T, regions []regional) {
	t.Helper()
	for _, r := range regions {
		list, err := r.ListKeys(t.Context(), &kms.ListKeysInput{})
		if err != nil || len(list.Keys) != 1 || aws.ToString(list.Keys[0].KeyArn) != r.key || !strings.HasPrefix(r.key, "arn:aws:kms:"+r.name+":") {
			t.Errorf("ListKeys in %s = %+v, %v; want %s", r.name, list, err, r.key)
		}
		if out, err := r.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: r.ciphertext}); err != nil || string(out.Plaintext) != string(r.plaintext) {
			t.Errorf("Decrypt in %s = %+v, %v", r.name, out, err)
		}
		if _, err := r.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{}); err != nil {
			t.Errorf("GetCallerIdentity in %s = %v", r.name, err)
		}
		for _, foreign := range regions {
			if foreign.name == r.name {
				continue
			}
			_, err := r.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: foreign.ciphertext})
			wantErrorCode(t, "Decrypt in another region", err, "AccessDeniedException")
			id := foreign.key[strings.LastIndex(foreign.key, "/")+1:]
			_, err = r.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
			wantErrorCode(t, "DescribeKey in another region", err, "NotFoundException")
		}
	}
}

// wantOwnTokens wants each token to have the service keys of its region alone.
func (i *instance) wantOwnTokens(t *testing.T, regions []regional) {
	t.Helper()
	r := run(t, i.binary, "hsm", "inspect", "-config", filepath.Join(i.dir, "kmsgate.yaml"), "-json")
	r.wantSuccess(t, "hsm inspect")
	got, want := map[string][]string{}, map[string][]string{}
	for _, token := range parseInspected(t, r).Tokens {
		for _, o := range token.Objects {
			got[token.Label] = append(got[token.Label], o.Label)
		}
		slices.Sort(got[token.Label])
	}
	for _, region := range regions {
		for _, kind := range []string{"binding", "domain", "sealing"} {
			want[region.token] = append(want[region.token], "kmsgate/default-"+region.name+"/"+kind+"/1")
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objects in the tokens (-want +got):\n%s", diff)
	}
}
