package identity

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

func TestPagesGoOnWhereTheLastOneEnded(t *testing.T) {
	t.Parallel()
	all := []string{"a", "b", "c", "d", "e"}
	size := int32(2)
	var got []string
	in := &PageRequest{MaxItems: &size}
	for range all {
		items, paged, err := pageOf(in, itself, func(after string, limit int) ([]string, error) {
			rest := all[slices.IndexFunc(all, func(s string) bool { return s > after }):]
			return rest[:min(len(rest), limit)], nil
		})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, items...)
		if !paged.IsTruncated {
			break
		}
		in.Marker = &paged.Marker
	}
	if !slices.Equal(got, all) {
		t.Errorf("pages have %v, want %v", got, all)
	}
	if after, limit, err := new(PageRequest).start(); err != nil || after != "" || limit != 100 {
		t.Errorf("start without anything = %q, %d, %v, want 100 items from the start", after, limit, err)
	}
}

// TestLongestMarkersAreTaken: the longest name in a list is the key of a tag.
func TestLongestMarkersAreTaken(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("\U00010348", 128)
	size := int32(1)
	_, paged, err := pageOf(&PageRequest{MaxItems: &size}, itself, func(string, int) ([]string, error) { return []string{longest, "z"}, nil })
	if err != nil {
		t.Fatal(err)
	}
	in := &PageRequest{Marker: &paged.Marker}
	if err := kmsapi.Validate(in); err != nil {
		t.Errorf("a marker of %d characters that a page ended with: %v", len(paged.Marker), err)
	}
	if after, _, err := in.start(); err != nil || after != longest {
		t.Errorf("start = %q, %v, want to go on after the longest key", after, err)
	}
}

func TestMarkersThatNobodyGaveAreRefused(t *testing.T) {
	t.Parallel()
	for _, marker := range []string{
		"", "a", "*", "MQ", base64.RawURLEncoding.EncodeToString([]byte("2\x00a")),
		base64.RawURLEncoding.EncodeToString([]byte("1\x00a\x00b")), base64.RawURLEncoding.EncodeToString([]byte("1\x00\xff")),
	} {
		if after, _, err := (&PageRequest{Marker: &marker}).start(); err == nil {
			t.Errorf("start(%q) = %q, want an error", marker, after)
		}
	}
}

func TestUniqueIDs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		id, key := newID("AIDA"), newAccessKeyID()
		if len(id) != 21 || !strings.HasPrefix(id, "AIDA") || strings.Trim(id, idLetters) != "" || seen[id] {
			t.Errorf("id %q", id)
		}
		if len(key) != 20 || !strings.HasPrefix(key, "AKIA") || strings.Trim(key, idLetters) != "" || seen[key] {
			t.Errorf("access key id %q", key)
		}
		seen[id], seen[key] = true, true
	}
}

func TestTagsOfRequests(t *testing.T) {
	t.Parallel()
	tag := func(key, value string) Tag { return Tag{Key: &key, Value: &value} }
	got, err := tagsOf([]Tag{tag("a", ""), tag("aws", "x"), tag("Größe", "1")})
	want := []metadata.Tag{{Key: "a"}, {Key: "aws", Value: "x"}, {Key: "Größe", Value: "1"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("tagsOf = %v, %v, want %v", got, err, want)
	}
	for name, tags := range map[string][]Tag{
		"a key twice":                   {tag("a", "1"), tag("b", ""), tag("a", "1")},
		"a key in another letter case":  {tag("Größe", "1"), tag("GRÖßE", "2")},
		"a key of the system's":         {tag("aws:x", "")},
		"the same in other letter case": {tag("Aws:x", "")},
	} {
		if got, err := tagsOf(tags); err == nil {
			t.Errorf("tagsOf with %s = %v, want an error", name, got)
		}
	}
}

func TestSecretsAreBoundToTheirOwner(t *testing.T) {
	t.Parallel()
	root := &metadata.AccessKey{ID: "AKIAIOSFODNN7EXAMPLE", Account: "111122223333"}
	user, another := *root, *root
	user.User, another.User = "ann", "bob"
	foreign := *root
	foreign.Account = "444455556666"
	seen := map[string]bool{}
	for _, k := range []*metadata.AccessKey{root, &user, &another, &foreign} {
		seen[string(secretAAD(k))] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d different associated data, want 4", len(seen))
	}
}
