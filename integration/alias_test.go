package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

const aliasPrefixText = `Alias must start with the prefix "alias/". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html`

func TestAliases(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	first, second := g.createKey(t, own), g.createKey(t, own)
	name := "alias/Life/of_an-" + idOf(first)
	_, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &first})
	c.wantEmpty(t, err)
	entry := func(key string) m {
		t.Helper()
		out, err := c.ListAliases(t.Context(), &kms.ListAliasesInput{KeyId: &key})
		if err != nil {
			t.Fatal(err)
		}
		c.wantMembers(t, "Aliases", "Truncated")
		if out.Truncated || len(out.Aliases) != 1 {
			t.Fatalf("%d aliases, truncated %v; want one", len(out.Aliases), out.Truncated)
		}
		entry := c.last.object(t)["Aliases"].([]any)[0].(m)
		wantMembers(t, "an alias", entry, "AliasName", "AliasArn", "TargetKeyId", "CreationDate", "LastUpdatedDate")
		if entry["AliasName"] != name || entry["AliasArn"] != aliasARN(own, name) || entry["TargetKeyId"] != idOf(key) {
			t.Errorf("alias %v, want %s of %s", entry, name, idOf(key))
		}
		return entry
	}
	made := entry(first)
	if made["CreationDate"] != made["LastUpdatedDate"] {
		t.Errorf("a new alias was created at %v and updated at %v, want the same", made["CreationDate"], made["LastUpdatedDate"])
	}
	exists := "An alias with the name " + aliasARN(own, name) + " already exists"
	for _, key := range []string{first, second} {
		g.refused(t, own, "CreateAlias", m{"AliasName": name, "TargetKeyId": key}, "AlreadyExistsException", exists)
	}
	time.Sleep(2 * time.Millisecond) // timestamps count milliseconds
	_, err = c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: &name, TargetKeyId: aws.String(idOf(second))})
	c.wantEmpty(t, err)
	moved := entry(second)
	if moved["CreationDate"] != made["CreationDate"] || moved["LastUpdatedDate"].(float64) <= made["LastUpdatedDate"].(float64) {
		t.Errorf("UpdateAlias: dates %v, %v after %v, %v; want the first as before and the second later",
			moved["CreationDate"], moved["LastUpdatedDate"], made["CreationDate"], made["LastUpdatedDate"])
	}
	if got := g.mustCall(t, own, "DescribeKey", m{"KeyId": name})["KeyMetadata"].(m)["Arn"]; got != second {
		t.Errorf("the alias names %v, want %s at once", got, second)
	}
	// An alias of a key that is switched off can be taken away.
	g.mustCall(t, own, "DisableKey", m{"KeyId": second})
	_, err = c.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: &name})
	c.wantEmpty(t, err)
	gone := "Alias " + aliasARN(own, name) + " is not found."
	g.refused(t, own, "DescribeKey", m{"KeyId": name}, "NotFoundException", gone)
	g.refused(t, own, "DeleteAlias", m{"AliasName": name}, "NotFoundException", gone)
	g.refused(t, own, "UpdateAlias", m{"AliasName": name, "TargetKeyId": first}, "NotFoundException", gone)
	g.mustCall(t, own, "CreateAlias", m{"AliasName": name, "TargetKeyId": second})
}

func TestAliasRefusals(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	const missing = "1234abcd-12ab-34cd-56ef-1234567890ab"
	gone := "Key '" + keyARN(own, missing) + "' does not exist"
	long := "alias/" + strings.Repeat("a", 251)
	pattern := func(name string) string {
		return "1 validation error detected: Value '" + name + "' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"
	}
	for _, operation := range []string{"CreateAlias", "UpdateAlias"} {
		for _, tc := range []struct {
			name, alias, target string
			code, message       string
		}{
			{"no prefix", "name", key, "ValidationException", aliasPrefixText},
			{"no prefix before the key", "name", missing, "ValidationException", aliasPrefixText},
			{"prefix in another case", "Alias/x", key, "ValidationException", aliasPrefixText},
			{"alias ARN", aliasARN(own, "alias/x"), key, "ValidationException", aliasPrefixText},
			{"reserved", "alias/aws/x", key, "NotAuthorizedException", ""},
			{"bare prefix", "alias/", key, "ValidationException", "Invalid identifier"},
			{"colon", "alias/a:b", key, "ValidationException", "alias/a:b contains invalid characters for an alias"},
			{"space", "alias/a b", key, "ValidationException", pattern("alias/a b")},
			{"umlaut", "alias/ä", key, "ValidationException", pattern("alias/ä")},
			{"too long", long, key, "ValidationException", "1 validation error detected: Value '" + long + "' at 'aliasName' failed to satisfy constraint: Member must have length less than or equal to 256"},
			{"alias of an alias", "alias/fine", "alias/other", "ValidationException", "Aliases must refer to keys. Not aliases"},
			{"alias of an alias's ARN", "alias/fine", aliasARN(own, "alias/other"), "ValidationException", "Aliases must refer to keys. Not aliases"},
			{"malformed key", "alias/fine", "fake", "NotFoundException", "Invalid keyId 'fake'"},
		} {
			t.Run(operation+"/"+tc.name, func(t *testing.T) {
				t.Parallel()
				g.refused(t, own, operation, m{"AliasName": tc.alias, "TargetKeyId": tc.target}, tc.code, tc.message)
			})
		}
	}
	g.refused(t, own, "CreateAlias", m{"AliasName": "alias/fine", "TargetKeyId": missing}, "NotFoundException", gone)
	g.refused(t, own, "DeleteAlias", m{"AliasName": "name"}, "ValidationException", aliasPrefixText)
	g.refused(t, own, "DeleteAlias", m{"AliasName": "alias/aws/x"}, "NotAuthorizedException", "")
	g.refused(t, own, "DeleteAlias", m{}, "ValidationException", "1 validation error detected: Value null at 'aliasName' failed to satisfy constraint: Member must not be null")
	g.refused(t, own, "ListAliases", m{"KeyId": missing}, "NotFoundException", gone)
	g.refused(t, own, "ListAliases", m{"KeyId": "alias/x"}, "InvalidArnException", "Key Aliases are not supported for this operation.")
	g.mustCall(t, own, "CreateAlias", m{"AliasName": "alias/" + strings.Repeat("a", 250), "TargetKeyId": key})
	// An alias in a key identifier that no alias could be.
	g.refused(t, own, "DescribeKey", m{"KeyId": "alias/\x00"}, "NotFoundException", "Invalid keyId 'alias/\x00'")
}

func TestAliasQuota(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key, second := g.createKey(t, own), g.createKey(t, own)
	for n := range 50 {
		g.mustCall(t, own, "CreateAlias", m{"AliasName": fmt.Sprintf("alias/%02d-%s", n, idOf(key)), "TargetKeyId": key})
	}
	over := m{"AliasName": "alias/50-" + idOf(key), "TargetKeyId": key}
	const full = "The quota of aliases has been reached for the key: "
	g.refused(t, own, "CreateAlias", over, "LimitExceededException", full+key)
	over["TargetKeyId"] = second
	g.mustCall(t, own, "CreateAlias", over)
	over["TargetKeyId"] = key
	g.refused(t, own, "UpdateAlias", over, "LimitExceededException", full+key)

	var names []string
	in := m{"KeyId": key, "Limit": 7}
	for {
		page := g.mustCall(t, own, "ListAliases", in)
		for _, a := range page["Aliases"].([]any) {
			names = append(names, a.(m)["AliasName"].(string))
		}
		if page["Truncated"] == false {
			wantMembers(t, "the last page", page, "Aliases", "Truncated")
			break
		}
		wantMembers(t, "a page", page, "Aliases", "Truncated", "NextMarker")
		in["Marker"] = page["NextMarker"]
	}
	if slices.Sort(names); len(slices.Compact(names)) != 50 {
		t.Errorf("%d aliases in pages of 7, want each of 50 once", len(names))
	}
	// A marker belongs to its list.
	g.refused(t, own, "ListAliases", m{"KeyId": second, "Marker": in["Marker"]}, "InvalidMarkerException", markerText)
	g.refused(t, own, "ListAliases", m{"Marker": in["Marker"]}, "InvalidMarkerException", markerText)
}
