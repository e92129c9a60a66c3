package gateway

import (
	"reflect"
	"slices"
	"testing"

	iamsdk "github.com/aws/aws-sdk-go-v2/service/iam"
	stssdk "github.com/aws/aws-sdk-go-v2/service/sts"
)

// notTaken are members that are refused, with the reason.
var notTaken = map[string]string{
	"CreatePolicy.Tags":                "managed policies have no tags",
	"CreateOpenIDConnectProvider.Tags": "providers have no tags",
}

// wireNames are the members that the SDK's types call otherwise than the API does.
var wireNames = map[string]string{
	"AssumeRole.PolicyArns.Arn": "arn", "AssumeRoleWithWebIdentity.PolicyArns.Arn": "arn",
}

// TestQueryMembersAreTheSDKs holds each request type of IAM and STS against the
// SDK's: a member that is missing would be refused as unknown.
func TestQueryMembersAreTheSDKs(t *testing.T) {
	t.Parallel()
	clients := map[service]reflect.Type{serviceIAM: reflect.TypeFor[*iamsdk.Client](), serviceSTS: reflect.TypeFor[*stssdk.Client]()}
	for _, o := range operations {
		client, ok := clients[o.service]
		if !ok {
			continue
		}
		method, ok := client.MethodByName(o.name)
		if !ok {
			t.Errorf("%s has no operation %s", o.service, o.name)
			continue
		}
		sameMembers(t, o.name, reflect.TypeOf(o.newRequest()).Elem(), method.Type.In(2).Elem())
	}
}

// sameMembers compares the members of two structs, and of those in them.
func sameMembers(t *testing.T, path string, ours, sdks reflect.Type) {
	t.Helper()
	if ours, sdks = element(ours), element(sdks); ours.Kind() != reflect.Struct {
		return
	}
	fields := fieldsByWireName(ours, nil)
	var want []string
	for _, f := range reflect.VisibleFields(sdks) {
		if !f.IsExported() {
			continue
		}
		name := wireNames[path+"."+f.Name]
		if name == "" {
			name = f.Name
		}
		want = append(want, name)
		index, ok := fields[name]
		if ok == (notTaken[path+"."+name] != "") {
			t.Errorf("%s.%s is taken: %v, and why it is not: %q", path, name, ok, notTaken[path+"."+name])
		}
		if !ok {
			continue
		}
		sameMembers(t, path+"."+f.Name, ours.FieldByIndex(index).Type, f.Type)
	}
	for name := range fields {
		if !slices.Contains(want, name) {
			t.Errorf("%s has a member %s that the SDK does not know", path, name)
		}
	}
}

// element is what a pointer points to, or a list has.
func element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}
