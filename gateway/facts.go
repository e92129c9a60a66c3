package gateway

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// facts are the condition keys of a request about one target. They are worked
// out when a policy names them; most policies name none. KMS Developer Guide,
// "AWS KMS condition keys"; IAM User Guide, "AWS global condition context keys".
type facts struct {
	call     *call
	resource *resource
	in       any      // the decoded request
	idle     []string // whole days since the key's last use; nil until they are asked for
}

func (c *call) facts(r *resource, in any) policy.Context {
	return &facts{call: c, resource: r, in: in}
}

// Values implements policy.Context. Keys come in lower case.
func (f *facts) Values(key string) ([]string, bool) {
	values := f.values(key)
	return values, len(values) > 0
}

func (f *facts) values(key string) []string {
	if fact, ok := factsByKey[key]; ok {
		return fact(f)
	}
	for _, family := range factsByPrefix {
		if name, ok := strings.CutPrefix(key, family.prefix); ok {
			return family.fact(f, name)
		}
	}
	return f.claim(key)
}

// factsByPrefix are the condition keys that are followed by a name, which is
// compared regardless of case.
var factsByPrefix = []struct {
	prefix string
	fact   func(f *facts, name string) []string
}{
	{"kms:encryptioncontext:", (*facts).contextValue},
	{"aws:requesttag/", (*facts).requestTag},
	{"aws:resourcetag/", (*facts).resourceTag},
	{"iam:resourcetag/", (*facts).resourceTag},
	{"aws:principaltag/", (*facts).principalTag},
}

// factsByKey works out each condition key. A fact without values is a key that
// the request does not have.
var factsByKey = factsOf(requestFacts, callerFacts, keyFacts, grantFacts, iamFacts, useFacts, importFacts)

func factsOf(tables ...map[string]func(*facts) []string) map[string]func(*facts) []string {
	all := map[string]func(*facts) []string{}
	for _, t := range tables {
		maps.Copy(all, t)
	}
	return all
}

// requestFacts are about the request itself.
var requestFacts = map[string]func(*facts) []string{
	"aws:currenttime":     func(f *facts) []string { return one(f.call.now.UTC().Format(time.RFC3339)) },
	"aws:epochtime":       func(f *facts) []string { return one(strconv.FormatInt(f.call.now.Unix(), 10)) },
	"aws:referer":         func(f *facts) []string { return one(f.call.referer) },
	"aws:requestedregion": (*facts).requestedRegion,
	"aws:securetransport": func(f *facts) []string { return one(strconv.FormatBool(f.call.event.TLS.Version != "")) },
	"aws:sourceip":        func(f *facts) []string { return one(f.call.event.SourceIP) },
	"aws:useragent":       func(f *facts) []string { return one(f.call.event.UserAgent) },
	"aws:tagkeys":         (*facts).tagKeys,
	"aws:viaawsservice":   func(*facts) []string { return one("false") },
}

// keyFacts are about a key and what is done with it.
var keyFacts = map[string]func(*facts) []string{
	"kms:calleraccount":                          func(f *facts) []string { return one(f.call.caller.Account) },
	"kms:bypasspolicylockoutsafetycheck":         func(f *facts) []string { return f.given("BypassPolicyLockoutSafetyCheck") },
	"kms:datakeypairspec":                        func(f *facts) []string { return f.text("KeyPairSpec") },
	"kms:encapsulationalgorithm":                 func(f *facts) []string { return f.text("EncapsulationAlgorithm") },
	"kms:encryptionalgorithm":                    (*facts).encryptionAlgorithm,
	"kms:encryptioncontextkeys":                  func(f *facts) []string { return slices.Collect(maps.Keys(f.constrained())) },
	"kms:keyagreementalgorithm":                  func(f *facts) []string { return f.text("KeyAgreementAlgorithm") },
	"kms:macalgorithm":                           func(f *facts) []string { return f.text("MacAlgorithm") },
	"kms:messagetype":                            func(f *facts) []string { return f.text("MessageType") },
	"kms:primaryregion":                          func(f *facts) []string { return f.text("PrimaryRegion") },
	"kms:reencryptonsamekey":                     (*facts).reEncryptOnSameKey,
	"kms:replicaregion":                          func(f *facts) []string { return f.text("ReplicaRegion") },
	"kms:requestalias":                           (*facts).requestAlias,
	"kms:resourcealiases":                        (*facts).resourceAliases,
	"kms:rotationperiodindays":                   func(f *facts) []string { return f.number("RotationPeriodInDays") },
	"kms:schedulekeydeletionpendingwindowindays": func(f *facts) []string { return f.number("PendingWindowInDays") },
	"kms:viaservice":                             func(f *facts) []string { return one(f.call.viaService(f.resource)) },
	"kms:signingalgorithm":                       func(f *facts) []string { return f.text("SigningAlgorithm") },

	"kms:keyspec":                (*facts).keySpec,
	"kms:customermasterkeyspec":  (*facts).keySpec,
	"kms:keyusage":               (*facts).keyUsage,
	"kms:customermasterkeyusage": (*facts).keyUsage,
	"kms:keyorigin": func(f *facts) []string {
		return f.ofKey("Origin", func(k *metadata.Key) string { return string(k.Origin) })
	},
	"kms:multiregion": func(f *facts) []string {
		return f.ofKey("MultiRegion", func(k *metadata.Key) string { return strconv.FormatBool(k.MultiRegionRole != "") })
	},
	"kms:multiregionkeytype": (*facts).multiRegionKeyType,
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

// number is a whole number of the request.
func (f *facts) number(member string) []string {
	if v, ok := f.value(member); ok && v.CanInt() {
		return one(strconv.FormatInt(v.Int(), 10))
	}
	return nil
}

// list is a list of strings of the request.
func (f *facts) list(member string) (values []string) {
	v, ok := f.value(member)
	if !ok || v.Kind() != reflect.Slice {
		return nil
	}
	for i := range v.Len() {
		values = append(values, v.Index(i).String())
	}
	return values
}

// given is a truth value of the request; absent when the request leaves it out.
func (f *facts) given(member string) []string {
	if v, ok := f.value(member); ok && v.Kind() == reflect.Bool {
		return one(strconv.FormatBool(v.Bool()))
	}
	return nil
}

// ofKey is a property of the key, or, while the key is being created, the
// member of the request that becomes it.
func (f *facts) ofKey(member string, property func(*metadata.Key) string) []string {
	if f.resource != nil && f.resource.key != nil {
		return one(property(&f.resource.key.Key))
	}
	if f.ofReplica() {
		replica := f.call.key(0).Key
		replica.MultiRegionRole = metadata.Replica
		return one(property(&replica))
	}
	if f.resource != nil && f.resource.target.kind != onAccount {
		return nil // a key that does not exist has no properties
	}
	switch v, ok := f.value(member); {
	case ok && v.Kind() == reflect.String:
		return one(v.String())
	case ok && v.Kind() == reflect.Bool:
		return one(strconv.FormatBool(v.Bool()))
	case member == "MultiRegion" && f.call.op.name == "CreateKey":
		return one("false")
	}
	return nil
}

// ofReplica tells whether the target is the making of a replica, in its own Region.
func (f *facts) ofReplica() bool { return f.resource != nil && f.resource.target.kind == onReplica }

func (f *facts) requestedRegion() []string {
	if f.ofReplica() {
		return f.text("ReplicaRegion")
	}
	return one(f.call.region)
}

func (f *facts) keySpec() []string {
	return f.ofKey("KeySpec", func(k *metadata.Key) string { return string(k.Spec) })
}

func (f *facts) keyUsage() []string {
	return f.ofKey("KeyUsage", func(k *metadata.Key) string { return string(k.Usage) })
}

// multiRegionKeyType is the part of a multi-Region key; a new one is the primary.
func (f *facts) multiRegionKeyType() []string {
	if role := f.ofKey("", func(k *metadata.Key) string { return string(k.MultiRegionRole) }); role != nil {
		return role
	}
	if f.call.op.name == "CreateKey" && slices.Equal(f.given("MultiRegion"), []string{"true"}) {
		return one(string(metadata.Primary))
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

// constrained is the same, or, of a request about a grant, what its constraint says.
func (f *facts) constrained() map[string]string {
	if context := f.context(); context != nil {
		return context
	}
	c := f.constraints()
	if c.EncryptionContextEquals != nil {
		return c.EncryptionContextEquals
	}
	return c.EncryptionContextSubset
}

// contextValue is the value of a pair of the context; its key is compared
// regardless of case.
func (f *facts) contextValue(name string) (values []string) {
	for k, v := range f.constrained() {
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

// requestAlias is the alias that the request names the key by. Operations on the
// alias itself do not name its key so: who may use a key by an alias may not, by the
// same condition, have the alias point elsewhere.
func (f *facts) requestAlias() []string {
	if f.resource == nil || f.resource.target.kind == onAliasTarget {
		return nil
	}
	return one(f.resource.alias)
}

func (f *facts) resourceAliases() []string {
	if f.resource == nil || f.resource.key == nil {
		return nil
	}
	return f.resource.key.Aliases
}
