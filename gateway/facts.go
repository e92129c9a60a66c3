package gateway

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
	"kmsgate/policy"
)

// facts are the condition keys of a request about one target. They are worked
// out when a policy names them; most policies name none. KMS Developer Guide,
// "AWS KMS condition keys"; IAM User Guide, "AWS global condition context keys".
type facts struct {
	call     *call
	resource *resource
	in       any // the decoded request
}

func (c *call) facts(r *resource, in any) policy.Context {
	return &facts{call: c, resource: r, in: in}
}

// Condition keys that are followed by a name of the request's own.
const (
	contextKeyPrefix = "kms:encryptioncontext:"
	requestTagPrefix = "aws:requesttag/"
)

// Values implements policy.Context. Keys come in lower case.
func (f *facts) Values(key string) ([]string, bool) {
	var values []string
	if name, ok := strings.CutPrefix(key, contextKeyPrefix); ok {
		values = f.contextValue(name)
	} else if name, ok := strings.CutPrefix(key, requestTagPrefix); ok {
		values = f.requestTag(name)
	} else if fact, ok := factsByKey[key]; ok {
		values = fact(f)
	}
	return values, len(values) > 0
}

// factsByKey works out each condition key. A fact without values is a key that
// the request does not have.
var factsByKey = map[string]func(*facts) []string{
	"aws:currenttime":      func(f *facts) []string { return one(f.call.now.UTC().Format(time.RFC3339)) },
	"aws:epochtime":        func(f *facts) []string { return one(strconv.FormatInt(f.call.now.Unix(), 10)) },
	"aws:principalaccount": func(f *facts) []string { return one(f.call.caller.Account) },
	"aws:principalarn":     func(f *facts) []string { return one(f.call.caller.ARN) },
	"aws:principaltype":    func(*facts) []string { return one("Account") },
	"aws:userid":           func(f *facts) []string { return one(f.call.caller.UserID) },
	"aws:requestedregion":  func(f *facts) []string { return one(f.call.region) },
	"aws:securetransport":  func(f *facts) []string { return one(strconv.FormatBool(f.call.event.TLS.Version != "")) },
	"aws:sourceip":         func(f *facts) []string { return one(f.call.event.SourceIP) },
	"aws:useragent":        func(f *facts) []string { return one(f.call.event.UserAgent) },
	"aws:tagkeys":          (*facts).tagKeys,

	"kms:calleraccount":                  func(f *facts) []string { return one(f.call.caller.Account) },
	"kms:bypasspolicylockoutsafetycheck": func(f *facts) []string { return f.flag("BypassPolicyLockoutSafetyCheck") },
	"kms:datakeypairspec":                func(f *facts) []string { return f.text("KeyPairSpec") },
	"kms:encapsulationalgorithm":         func(f *facts) []string { return f.text("EncapsulationAlgorithm") },
	"kms:encryptionalgorithm":            (*facts).encryptionAlgorithm,
	"kms:encryptioncontextkeys":          func(f *facts) []string { return slices.Collect(maps.Keys(f.context())) },
	"kms:keyagreementalgorithm":          func(f *facts) []string { return f.text("KeyAgreementAlgorithm") },
	"kms:macalgorithm":                   func(f *facts) []string { return f.text("MacAlgorithm") },
	"kms:messagetype":                    func(f *facts) []string { return f.text("MessageType") },
	"kms:reencryptonsamekey":             (*facts).reEncryptOnSameKey,
	"kms:requestalias":                   (*facts).requestAlias,
	"kms:viaservice":                     func(f *facts) []string { return one(f.call.viaService(f.resource)) },
	"kms:signingalgorithm":               func(f *facts) []string { return f.text("SigningAlgorithm") },

	"kms:keyspec": func(f *facts) []string {
		return f.ofKey("KeySpec", func(r *resource) string { return string(r.key.Spec) })
	},
	"kms:customermasterkeyspec": func(f *facts) []string {
		return f.ofKey("KeySpec", func(r *resource) string { return string(r.key.Spec) })
	},
	"kms:keyusage": func(f *facts) []string {
		return f.ofKey("KeyUsage", func(r *resource) string { return string(r.key.Usage) })
	},
	"kms:customermasterkeyusage": func(f *facts) []string {
		return f.ofKey("KeyUsage", func(r *resource) string { return string(r.key.Usage) })
	},
	"kms:keyorigin": func(f *facts) []string {
		return f.ofKey("Origin", func(r *resource) string { return string(r.key.Origin) })
	},
	"kms:multiregion": func(f *facts) []string {
		return f.ofKey("MultiRegion", func(r *resource) string { return strconv.FormatBool(r.key.MultiRegionRole != "") })
	},
	"kms:multiregionkeytype": func(f *facts) []string {
		return f.ofKey("", func(r *resource) string { return string(r.key.MultiRegionRole) })
	},
}

func one(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

// value is a member of the request, dereferenced; ok is false if the request
// has no such member or it is absent.
func (f *facts) value(member string) (v reflect.Value, ok bool) {
	if _, has := f.call.op.fields[member]; !has || f.in == nil {
		return v, false
	}
	v = f.call.op.member(f.in, member)
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return v, false
		}
		v = v.Elem()
	}
	return v, true
}

// text is a string of the request.
func (f *facts) text(member string) []string {
	if v, ok := f.value(member); ok {
		return one(v.String())
	}
	return nil
}

// flag is a truth value of the request; absent when the request leaves it out.
func (f *facts) flag(member string) []string {
	if v, ok := f.value(member); ok && v.Kind() == reflect.Bool && v.Bool() {
		return []string{"true"}
	}
	return nil
}

// ofKey is a property of the key, or, while the key is being created, the
// member of the request that becomes it.
func (f *facts) ofKey(member string, property func(*resource) string) []string {
	if f.resource != nil && f.resource.key != nil {
		return one(property(f.resource))
	}
	if f.resource != nil && f.resource.target.kind != onAccount {
		return nil // a key that does not exist has no properties
	}
	switch v, ok := f.value(member); {
	case ok && v.Kind() == reflect.String:
		return one(v.String())
	case ok && v.Kind() == reflect.Bool:
		return one(strconv.FormatBool(v.Bool()))
	case member == "MultiRegion":
		return one("false")
	}
	return nil
}

// side is what the names of the members about the target begin with.
func (f *facts) side() string {
	if f.resource == nil {
		return ""
	}
	return f.resource.target.side
}

// context is the encryption context that goes with the target.
func (f *facts) context() map[string]string {
	v, ok := f.value(f.side() + "EncryptionContext")
	if !ok {
		return nil
	}
	context, _ := v.Interface().(map[string]string)
	return context
}

// contextValue is the value of a pair of the context; its key is compared
// regardless of case.
func (f *facts) contextValue(name string) (values []string) {
	for k, v := range f.context() {
		if strings.EqualFold(k, name) {
			values = append(values, v)
		}
	}
	return values
}

// encryptionAlgorithm is the algorithm with which the key is used.
func (f *facts) encryptionAlgorithm() []string {
	if f.resource == nil || f.resource.target.usage != keyspec.EncryptDecrypt {
		return nil
	}
	if algorithm := f.text(f.side() + "EncryptionAlgorithm"); algorithm != nil {
		return algorithm
	}
	return one(string(keyspec.AlgorithmSymmetricDefault)) // data keys have no choice
}

func (f *facts) reEncryptOnSameKey() []string {
	if f.side() == "" {
		return nil
	}
	from, to := f.call.key(0), f.call.key(1)
	return one(strconv.FormatBool(from != nil && to != nil && from.ARN() == to.ARN()))
}

func (f *facts) requestAlias() []string {
	if f.resource == nil {
		return nil
	}
	return one(f.resource.alias)
}

func (f *facts) requestTags() []kmsapi.Tag {
	v, ok := f.value("Tags")
	if !ok {
		return nil
	}
	tags, _ := v.Interface().([]kmsapi.Tag)
	return tags
}

func (f *facts) requestTag(name string) (values []string) {
	for _, t := range f.requestTags() {
		if strings.EqualFold(kmsapi.Or(t.TagKey, ""), name) {
			values = append(values, kmsapi.Or(t.TagValue, ""))
		}
	}
	return values
}

func (f *facts) tagKeys() []string {
	if v, ok := f.value("TagKeys"); ok {
		keys, _ := v.Interface().([]string)
		return keys
	}
	var keys []string
	for _, t := range f.requestTags() {
		keys = append(keys, kmsapi.Or(t.TagKey, ""))
	}
	return keys
}
