package integration_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

const markerText = "The request was rejected because the marker that specifies where pagination should next begin is not valid."

func TestListKeys(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(third)
	empty := g.mustCall(t, third, "ListKeys", m{})
	wantMembers(t, "the empty list", empty, "Keys", "Truncated")
	if len(empty["Keys"].([]any)) != 0 {
		t.Fatalf("%d keys in an account without keys: another test uses it", len(empty["Keys"].([]any)))
	}
	var want []string
	for range 7 {
		want = append(want, g.createKey(t, third))
	}
	slices.Sort(want)
	g.mustCall(t, third, "DisableKey", m{"KeyId": want[3]}) // is listed all the same
	for _, limit := range []int32{1, 2, 6, 7, 1000} {
		var got []string
		pages := kms.NewListKeysPaginator(c, &kms.ListKeysInput{Limit: &limit})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(page.Keys) > int(limit) || page.Truncated != (page.NextMarker != nil) {
				t.Errorf("limit %d: %d keys, truncated %v, marker %v", limit, len(page.Keys), page.Truncated, page.NextMarker)
			}
			for _, k := range page.Keys {
				if *k.KeyArn != keyARN(third, *k.KeyId) {
					t.Errorf("KeyArn %s of KeyId %s", *k.KeyArn, *k.KeyId)
				}
				got = append(got, *k.KeyArn)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("limit %d: %d keys, want all %d once", limit, len(got), len(want))
		}
	}
	wantMembers(t, "a key", g.mustCall(t, third, "ListKeys", m{})["Keys"].([]any)[0].(m), "KeyId", "KeyArn")

	marker := g.mustCall(t, third, "ListKeys", m{"Limit": 2})["NextMarker"].(string)
	page := g.mustCall(t, third, "ListKeys", m{"Marker": marker, "Limit": 2})
	if len(page["Keys"].([]any)) != 2 {
		t.Error("a marker does not go on")
	}
	changed := "A" + marker[1:]
	if changed == marker {
		changed = "B" + marker[1:]
	}
	for name, bad := range map[string]string{
		"garbage": "garbage", "cut": marker[:len(marker)-4], "longer": marker + "AAAA", "changed": changed, "another case": strings.ToUpper(marker),
	} {
		t.Run(name, func(t *testing.T) {
			g.refused(t, third, "ListKeys", m{"Marker": bad}, "InvalidMarkerException", markerText)
		})
	}
	g.refused(t, own, "ListKeys", m{"Marker": marker}, "InvalidMarkerException", markerText)
	g.refused(t, third, "ListAliases", m{"Marker": marker}, "InvalidMarkerException", markerText)
}

func TestListLimits(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	for _, tc := range []struct {
		operation, most, over string
		limit                 int
	}{
		{"ListKeys", "1000", "1001", 1001},
		{"ListAliases", "100", "101", 101},
		{"ListKeyPolicies", "1000", "1001", 1001},
		{"ListResourceTags", "50", "51", 51},
	} {
		in := m{"Limit": tc.limit}
		if tc.operation != "ListKeys" {
			in["KeyId"] = key
		}
		g.refused(t, own, tc.operation, in, "ValidationException", "1 validation error detected: Value '"+tc.over+"' at 'limit' failed to satisfy constraint: Member must have value less than or equal to "+tc.most)
		in["Limit"] = 0
		g.refused(t, own, tc.operation, in, "ValidationException", "1 validation error detected: Value '0' at 'limit' failed to satisfy constraint: Member must have value greater than or equal to 1")
		delete(in, "Limit")
		in["Marker"] = "garbled"
		g.refused(t, own, tc.operation, in, "InvalidMarkerException", markerText)
		in["Marker"] = ""
		g.refused(t, own, tc.operation, in, "ValidationException", "1 validation error detected: Value '' at 'marker' failed to satisfy constraint: Member must have length greater than or equal to 1")
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	key := g.createKey(t, own)
	tag := func(key, value string) types.Tag { return types.Tag{TagKey: &key, TagValue: &value} }
	put := func(tags ...types.Tag) {
		t.Helper()
		_, err := c.TagResource(t.Context(), &kms.TagResourceInput{KeyId: &key, Tags: tags})
		c.wantEmpty(t, err)
	}
	list := func() map[string]string {
		t.Helper()
		got := map[string]string{}
		pages := kms.NewListResourceTagsPaginator(c, &kms.ListResourceTagsInput{KeyId: aws.String(idOf(key)), Limit: aws.Int32(3)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, tag := range page.Tags {
				got[*tag.TagKey] = *tag.TagValue
			}
		}
		return got
	}
	wantMembers(t, "the empty list", g.mustCall(t, own, "ListResourceTags", m{"KeyId": key}), "Tags", "Truncated")
	put(tag("a", "1"), tag("A", "2"), tag(strings.Repeat("ü", 128), strings.Repeat("ß", 256)), tag("empty", ""))
	put(tag("a", "3"), tag(" odd +-=._:/@", "x"))
	got := list()
	if len(got) != 5 || got["a"] != "3" || got["A"] != "2" || got[strings.Repeat("ü", 128)] != strings.Repeat("ß", 256) || got[" odd +-=._:/@"] != "x" {
		t.Errorf("tags %v", got)
	}
	wantMembers(t, "a tag", g.mustCall(t, own, "ListResourceTags", m{"KeyId": key})["Tags"].([]any)[0].(m), "TagKey", "TagValue")
	_, err := c.UntagResource(t.Context(), &kms.UntagResourceInput{KeyId: &key, TagKeys: []string{"a", "never there", "nul\x00"}})
	c.wantEmpty(t, err)
	if got := list(); len(got) != 4 || got["A"] != "2" {
		t.Errorf("tags after UntagResource: %v, want the others", got)
	}
	g.mustCall(t, own, "TagResource", m{"KeyId": key, "Tags": manyTags(46)}) // that makes 50
	g.refused(t, own, "TagResource", m{"KeyId": key, "Tags": []m{{"TagKey": "one more", "TagValue": ""}}}, "TagException", "Too many tags")
	if full := g.mustCall(t, own, "ListResourceTags", m{"KeyId": key}); len(full["Tags"].([]any)) != 50 || full["Truncated"] != false {
		t.Errorf("%d tags, truncated %v; want 50 in one answer", len(full["Tags"].([]any)), full["Truncated"])
	}
	g.mustCall(t, own, "TagResource", m{"KeyId": key, "Tags": manyTags(46)}) // values of tags that are there

	const failed = "1 validation error detected: Value "
	long := strings.Repeat("v", 257)
	for _, tc := range []struct {
		name, operation string
		in              m
		code, message   string
	}{
		{"no tags", "TagResource", m{"KeyId": key}, "ValidationException", failed + "null at 'tags' failed to satisfy constraint: Member must not be null"},
		{"duplicate", "TagResource", m{"KeyId": key, "Tags": []m{{"TagKey": "a", "TagValue": "1"}, {"TagKey": "a", "TagValue": "1"}}}, "TagException", "Duplicate tag keys"},
		{"reserved", "TagResource", m{"KeyId": key, "Tags": []m{{"TagKey": "aWs:x", "TagValue": "1"}}}, "TagException", "Tags beginning with aws: are reserved"},
		{"too many", "TagResource", m{"KeyId": key, "Tags": manyTags(51)}, "TagException", "Too many tags"},
		{"empty key", "TagResource", m{"KeyId": key, "Tags": []m{{"TagKey": "", "TagValue": "1"}}}, "ValidationException", failed + "'' at 'tags.1.member.tagKey' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"value too long", "TagResource", m{"KeyId": key, "Tags": []m{{"TagKey": "a", "TagValue": ""}, {"TagKey": "b", "TagValue": long}}}, "ValidationException", failed + "'" + long + "' at 'tags.2.member.tagValue' failed to satisfy constraint: Member must have length less than or equal to 256"},
		{"no tag keys", "UntagResource", m{"KeyId": key}, "ValidationException", failed + "null at 'tagKeys' failed to satisfy constraint: Member must not be null"},
		{"reserved", "UntagResource", m{"KeyId": key, "TagKeys": []string{"aws:x"}}, "TagException", "Tags beginning with aws: are reserved"},
		{"empty key", "UntagResource", m{"KeyId": key, "TagKeys": []string{""}}, "ValidationException", failed + "'[]' at 'tagKeys' failed to satisfy constraint: Member must satisfy constraint: [Member must have length less than or equal to 128, Member must have length greater than or equal to 1]"},
	} {
		t.Run(tc.operation+"/"+tc.name, func(t *testing.T) {
			g.refused(t, own, tc.operation, tc.in, tc.code, tc.message)
		})
	}
	if a := g.call(t, own, "TagResource", m{"KeyId": key, "Tags": []m{{"TagKey": "n\x00", "TagValue": "1"}}}); a.status != 400 {
		t.Errorf("a NUL in a tag: %d %s, want a refusal", a.status, a.body)
	}
}
