package gateway

import (
	"strings"

	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// requestTags are the tags in the request.
func (f *facts) requestTags() (tags []metadata.Tag) {
	v, ok := f.value("Tags")
	if !ok {
		return nil
	}
	switch sent := v.Interface().(type) {
	case []kmsapi.Tag:
		for _, t := range sent {
			tags = append(tags, metadata.Tag{Key: kmsapi.Or(t.TagKey, ""), Value: kmsapi.Or(t.TagValue, "")})
		}
	case []identity.Tag:
		for _, t := range sent {
			tags = append(tags, metadata.Tag{Key: kmsapi.Or(t.Key, ""), Value: kmsapi.Or(t.Value, "")})
		}
	}
	return tags
}

func (f *facts) requestTag(name string) []string { return valuesOf(f.requestTags(), name) }

// tagKeys are the keys of the request's tags, or of those that it removes.
func (f *facts) tagKeys() (keys []string) {
	if v, ok := f.value("TagKeys"); ok {
		keys, _ = v.Interface().([]string)
		return keys
	}
	for _, t := range f.requestTags() {
		keys = append(keys, t.Key)
	}
	return keys
}

// resourceTag is a tag of the key, user or role.
func (f *facts) resourceTag(name string) []string {
	switch {
	case f.resource == nil:
		return nil
	case f.resource.key != nil:
		return valuesOf(f.resource.key.Tags, name)
	case f.resource.entry != nil:
		return valuesOf(f.resource.entry.Tags, name)
	}
	return nil
}

// principalTag is a tag of the caller: of its session, or else of the user or role.
func (f *facts) principalTag(name string) []string {
	if s := f.call.caller.Session; s != nil {
		for key, value := range s.Tags {
			if strings.EqualFold(key, name) {
				return []string{value}
			}
		}
	}
	if e := f.call.caller.Entry; e != nil {
		return valuesOf(e.Tags, name)
	}
	return nil
}

// valuesOf are the values of the tags with a key, regardless of its case.
func valuesOf(tags []metadata.Tag, key string) (values []string) {
	for _, t := range tags {
		if strings.EqualFold(t.Key, key) {
			values = append(values, t.Value)
		}
	}
	return values
}
