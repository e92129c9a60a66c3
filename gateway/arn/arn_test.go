package arn_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"kmsgate/gateway/arn"
)

const (
	region  = "us-east-1"
	account = "111122223333"
	id      = "1234abcd-12ab-34cd-56ef-1234567890ab"
	mrk     = "mrk-1234abcd12ab34cd56ef1234567890ab"
	prefix  = "arn:aws:kms:us-east-1:111122223333:"
)

func TestParseReadsTheFourForms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want arn.Ref
	}{
		{id, arn.Ref{Form: arn.KeyID, ID: id}},
		{mrk, arn.Ref{Form: arn.KeyID, ID: mrk}},
		{strings.ToUpper(id), arn.Ref{Form: arn.KeyID, ID: strings.ToUpper(id)}},
		{prefix + "key/" + id, arn.Ref{Form: arn.KeyARN, Region: region, Account: account, ID: id}},
		{prefix + "key/" + mrk, arn.Ref{Form: arn.KeyARN, Region: region, Account: account, ID: mrk}},
		{prefix + "key/" + strings.ToUpper(id), arn.Ref{Form: arn.KeyARN, Region: region, Account: account, ID: strings.ToUpper(id)}},
		{"arn:aws:kms:xx-yy-9:000000000000:key/" + id, arn.Ref{Form: arn.KeyARN, Region: "xx-yy-9", Account: "000000000000", ID: id}},
		{"alias/a", arn.Ref{Form: arn.AliasName, Alias: "alias/a"}},
		{"alias/a/b_c-D:1", arn.Ref{Form: arn.AliasName, Alias: "alias/a/b_c-D:1"}},
		{"alias/aws/s3", arn.Ref{Form: arn.AliasName, Alias: "alias/aws/s3"}},
		{"alias/" + id, arn.Ref{Form: arn.AliasName, Alias: "alias/" + id}},
		{prefix + "alias/a", arn.Ref{Form: arn.AliasARN, Region: region, Account: account, Alias: "alias/a"}},
		{prefix + "alias/a/b:c", arn.Ref{Form: arn.AliasARN, Region: region, Account: account, Alias: "alias/a/b:c"}},
	} {
		if got, err := arn.Parse(c.in); err != nil || got != c.want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", c.in, got, err, c.want)
		}
	}
}

func TestParseRefusesWhatNamesNothing(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"", "fake-key-id", "mrk-fake-key-id", "mrk-", mrk + "0", mrk[:35], "mrk-" + strings.ToUpper(mrk[4:]), strings.ToUpper(mrk),
		strings.ReplaceAll(id, "-", ""), id + "0", id[1:], id[:35] + "g", "1234abcd-12ab-34cd-56ef_1234567890ab", "1234abcd12-ab-34cd-56ef-1234567890ab",
		" " + id, id + "\n", "alias", "alias/", "Alias/a", "aliases/a", "key/" + id,
		"arn:", "arn:aws:kms", "arn:aws:kms:us-east-1:111122223333", prefix, prefix + "key/", prefix + "alias/", prefix + "key", prefix + id,
		prefix + "Key/" + id, prefix + "key:" + id,
		"ARN:aws:kms:us-east-1:111122223333:key/" + id,
		"arn:aws-cn:kms:us-east-1:111122223333:key/" + id,
		"arn::kms:us-east-1:111122223333:key/" + id,
		"arn:aws:s3:us-east-1:111122223333:key/" + id,
		"arn:aws:KMS:us-east-1:111122223333:key/" + id,
		"arn:aws:kms::111122223333:key/" + id,
		"arn:aws:kms:us-east-1::key/" + id,
		"arn:aws:kms:us-east-1:11112222333:key/" + id,
		"arn:aws:kms:us-east-1:1111222233334:key/" + id,
		"arn:aws:kms:us-east-1:11112222333x:key/" + id,
		"arn:aws:kms:us-east-1:*:key/" + id,
	} {
		if got, err := arn.Parse(in); !errors.Is(err, arn.ErrMalformed) || got != (arn.Ref{}) {
			t.Errorf("Parse(%q) = %+v, %v, want nothing and ErrMalformed", in, got, err)
		}
	}
}

func TestParseTellsAnARNWithAMalformedID(t *testing.T) {
	t.Parallel()
	for _, resource := range []string{"foo", "mrk-foo", id + "/", id + ":x", "*", "alias/a", " "} {
		in := prefix + "key/" + resource
		want := arn.Ref{Form: arn.KeyARN, Region: region, Account: account, ID: resource}
		if got, err := arn.Parse(in); !errors.Is(err, arn.ErrMalformedID) || got != want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v and ErrMalformedID", in, got, err, want)
		}
	}
}

func TestFormsAreDisjoint(t *testing.T) {
	t.Parallel()
	all := arn.Form(0)
	for _, f := range []arn.Form{arn.KeyID, arn.KeyARN, arn.AliasName, arn.AliasARN} {
		if all&f != 0 {
			t.Errorf("form %b overlaps %b", f, all)
		}
		all |= f
	}
	if all != arn.AnyForm || arn.KeyForms != arn.KeyID|arn.KeyARN {
		t.Errorf("AnyForm, KeyForms = %b, %b, want %b, %b", arn.AnyForm, arn.KeyForms, all, arn.KeyID|arn.KeyARN)
	}
}

func TestParseReadsWhatIsSpelled(t *testing.T) {
	t.Parallel()
	regions := rapid.StringMatching(`[a-z]{2}-[a-z]{4,9}-[0-9]`)
	accounts := rapid.StringMatching(`[0-9]{12}`)
	ids := rapid.OneOf(
		rapid.StringMatching(`mrk-[0-9a-f]{32}`),
		rapid.Custom(func(t *rapid.T) string {
			return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid")).String()
		}),
	)
	names := rapid.StringMatching(`alias/[a-zA-Z0-9:/_-]{1,250}`)
	rapid.Check(t, func(t *rapid.T) {
		r, a, i, n := regions.Draw(t, "region"), accounts.Draw(t, "account"), ids.Draw(t, "id"), names.Draw(t, "alias")
		for in, want := range map[string]arn.Ref{
			i:                       {Form: arn.KeyID, ID: i},
			n:                       {Form: arn.AliasName, Alias: n},
			arn.KeyARNOf(r, a, i):   {Form: arn.KeyARN, Region: r, Account: a, ID: i},
			arn.AliasARNOf(r, a, n): {Form: arn.AliasARN, Region: r, Account: a, Alias: n},
		} {
			if got, err := arn.Parse(in); err != nil || got != want {
				t.Fatalf("Parse(%q) = %+v, %v, want %+v", in, got, err, want)
			}
		}
	})
}

func TestRootIsThePrincipalOfAnAccount(t *testing.T) {
	t.Parallel()
	if got, want := arn.Root(account), "arn:aws:iam::111122223333:root"; got != want {
		t.Errorf("Root(%q) = %q, want %q", account, got, want)
	}
}

// FuzzParse: what parses is spelled in one way only, so that a name that was
// looked up, authorised and recorded is the name that was sent.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", id, mrk, strings.ToUpper(id), "alias/a", "alias/", prefix + "key/" + id, prefix + "key/foo", prefix + "alias/a:b",
		"arn:aws:kms:us-east-1:111122223333", "arn:aws:kms::111122223333:key/" + id,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := arn.Parse(s)
		if errors.Is(err, arn.ErrMalformed) {
			if ref != (arn.Ref{}) || arn.IsKeyID(s) {
				t.Errorf("Parse(%q) = %+v, %v, want nothing", s, ref, err)
			}
			return
		}
		spelled := map[arn.Form]string{
			arn.KeyID:     ref.ID,
			arn.KeyARN:    arn.KeyARNOf(ref.Region, ref.Account, ref.ID),
			arn.AliasName: ref.Alias,
			arn.AliasARN:  arn.AliasARNOf(ref.Region, ref.Account, ref.Alias),
		}[ref.Form]
		if spelled != s {
			t.Errorf("Parse(%q) = %+v, spelled %q, want the same", s, ref, spelled)
		}
		isKey := ref.Form&arn.KeyForms != 0
		if isKey == (ref.ID == "") || isKey != (ref.Alias == "") {
			t.Errorf("Parse(%q) = %+v, want an id or an alias", s, ref)
		}
		if isKey && (err == nil) != arn.IsKeyID(ref.ID) {
			t.Errorf("Parse(%q) = %+v, %v, want an error for a malformed id alone", s, ref, err)
		}
	})
}
