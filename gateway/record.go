package gateway

import (
	"reflect"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// recordedCodes are the codes that CloudTrail spells in another way.
var recordedCodes = map[kmsapi.Code]string{
	kmsapi.AccessDeniedException:  "AccessDenied",
	awsquery.ExpiredIdentityToken: "ExpiredTokenException",
}

// useKind says what a cryptographic operation did with a material.
type useKind uint8

const (
	encryption useKind = iota
	decryption
	otherUse // of a key whose materials are not counted
)

// used counts a use of a material; it is recorded if the request succeeds.
func (c *call) used(key *metadata.KeyEntry, material hsm.MaterialID, kind useKind) {
	use := audit.Use{
		Region: key.Region, KeyID: key.ID, MaterialID: material, Operation: c.op.name,
		Time: c.now, EventID: c.event.EventID, RequestID: c.requestID,
	}
	switch kind {
	case encryption:
		use.Encryptions = 1
	case decryption:
		use.Decryptions = 1
	}
	c.uses = append(c.uses, ownedUse{Use: use, owner: key.Account})
}

// ownedUse is a use of a material and the account that owns its key.
type ownedUse struct {
	audit.Use
	owner string
}

// usesOf are the call's uses of an account's keys, as the event that is
// recorded for that account has them.
func (c *call) usesOf(account string) []audit.Use {
	var uses []audit.Use
	for _, u := range c.uses {
		if u.owner == account {
			u.EventID = c.event.EventID
			uses = append(uses, u.Use)
		}
	}
	return uses
}

// noteMaterial puts a material's id into the record's additionalEventData.
func (c *call) noteMaterial(member string, material hsm.MaterialID) {
	c.event.AdditionalEventData = append(c.event.AdditionalEventData, audit.String(member, material.String()))
}

// resourcesKnown are the resources as the record has them, aliases after keys:
// nothing of another account that the caller was not allowed to act on.
func (c *call) resourcesKnown(outcome *kmsapi.Error) (known []audit.Resource) {
	for _, r := range c.resources {
		if r.key != nil && (r.authorised || r.key.Account == c.caller.Account) {
			known = append(known, audit.KeyResource(r.key.Account, r.key.ARN()))
		}
	}
	if c.made != "" && outcome == nil {
		known = append(known, audit.KeyResource(c.caller.Account, c.made))
	}
	for _, r := range c.resources {
		role := audit.Resource{Account: r.account, Type: roleResourceType, ARN: r.arn}
		switch {
		case r.target.kind == onAlias:
			known = append(known, audit.KeyResource(r.account, r.arn))
		case r.target.kind != onTrust || slices.Contains(known, role):
		case r.entry != nil && (r.authorised || r.account == c.caller.Account):
			known = append(known, role)
		}
	}
	return known
}

// roleResourceType is CloudTrail's type of a role that was assumed.
const roleResourceType = "AWS::IAM::Role"

// noteParameters puts the request members that the row names into the record:
// nothing else of a request is ever recorded.
func (c *call) noteParameters(in any) {
	members := make(audit.Members, 0, len(c.op.records))
	for _, name := range c.op.records {
		if m, ok := memberOf(lowerCamel(name), c.op.member(in, name)); ok {
			members = append(members, m)
		}
	}
	if len(members) > 0 {
		c.event.RequestParameters = members
	}
}

// memberOf turns a request's member into one of a record; ok is false if it is
// absent.
func memberOf(name string, v reflect.Value) (m audit.Member, ok bool) {
	if v.IsZero() {
		return m, false
	}
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch value := v.Interface().(type) {
	case kmsapi.Secret:
		return m, false
	case time.Time:
		return audit.Date(name, value), true
	case kmsapi.Timestamp:
		return audit.Date(name, value.Time), true
	}
	switch v.Kind() {
	case reflect.String:
		return audit.String(name, v.String()), true
	case reflect.Bool:
		return audit.Bool(name, v.Bool()), true
	case reflect.Int32, reflect.Int64, reflect.Int:
		return audit.Int(name, v.Int()), true
	case reflect.Map:
		context, ok := v.Interface().(map[string]string)
		return audit.Map(name, context), ok
	case reflect.Slice:
		return listOf(name, v), true
	case reflect.Struct:
		return objectOf(name, v), true
	default:
		return m, false
	}
}

// objectOf has the members of a struct that are there.
func objectOf(name string, v reflect.Value) audit.Member { return audit.Object(name, membersOf(v)...) }

// membersOf are the members of a struct of a request or response that are there;
// those of embedded structs are its own.
func membersOf(v reflect.Value) (members audit.Members) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous {
			members = append(members, membersOf(v.Field(i))...)
			continue
		}
		if m, ok := memberOf(lowerCamel(wireName(field)), v.Field(i)); ok {
			members = append(members, m)
		}
	}
	return members
}

func listOf(name string, v reflect.Value) audit.Member {
	items := make([]audit.Member, 0, v.Len())
	for i := range v.Len() {
		if m, ok := memberOf("", v.Index(i)); ok {
			items = append(items, m)
		}
	}
	return audit.List(name, items...)
}

// lowerCamel is CloudTrail's spelling of a member: KeyId is keyId.
func lowerCamel(name string) string {
	r, size := utf8.DecodeRuneInString(name)
	return string(unicode.ToLower(r)) + name[size:]
}

// keyMetadataElement is a key's metadata in responseElements, under a name.
func keyMetadataElement(name string, m *kmsapi.KeyMetadata) audit.Member {
	members := []audit.Member{
		audit.String("aWSAccountId", m.AWSAccountID), audit.String("keyId", m.KeyID), audit.String("arn", m.ARN),
		audit.Date("creationDate", m.CreationDate.Time), audit.Bool("enabled", m.Enabled),
		audit.String("description", m.Description), audit.String("keyUsage", string(m.KeyUsage)),
		audit.String("keyState", string(m.KeyState)), audit.String("origin", string(m.Origin)),
		audit.String("keyManager", string(m.KeyManager)), audit.String("keySpec", string(m.KeySpec)),
		audit.String("customerMasterKeySpec", string(m.CustomerMasterKeySpec)),
		audit.Bool("multiRegion", m.MultiRegion),
	}
	for _, list := range []struct {
		name       string
		algorithms []keyspec.Algorithm
	}{
		{"encryptionAlgorithms", m.EncryptionAlgorithms},
		{"signingAlgorithms", m.SigningAlgorithms},
		{"keyAgreementAlgorithms", m.KeyAgreementAlgorithms},
		{"macAlgorithms", m.MacAlgorithms},
		{"encapsulationAlgorithms", m.EncapsulationAlgorithms},
	} {
		if len(list.algorithms) > 0 {
			members = append(members, listOf(list.name, reflect.ValueOf(list.algorithms)))
		}
	}
	if m.CurrentKeyMaterialID != "" {
		members = append(members, audit.String("currentKeyMaterialId", m.CurrentKeyMaterialID))
	}
	if related, ok := memberOf("multiRegionConfiguration", reflect.ValueOf(m.MultiRegionConfiguration)); ok {
		members = append(members, related)
	}
	return audit.Object(name, members...)
}

// finish completes the record with the outcome and returns its exact bytes.
func (c *call) finish(err *kmsapi.Error) []byte {
	if err != nil {
		c.event.ErrorCode, c.event.ErrorMessage = string(err.Code), err.Recordable()
		if code, ok := recordedCodes[err.Code]; ok {
			c.event.ErrorCode = code
		}
		c.event.ResponseElements, c.event.AdditionalEventData, c.uses = nil, nil, nil
	}
	c.event.Resources = c.resourcesKnown(err)
	return c.event.AppendJSON(make([]byte, 0, 1536))
}

// records are the call's finished records: one for the caller's account and,
// where it was allowed to use a key of another account, one for that account,
// which names the caller by its account only.
func (c *call) records(err *kmsapi.Error) []metadata.Record {
	owners := c.foreignOwners(err)
	if len(owners) > 0 {
		c.event.SharedEventID = uuid.NewString()
	}
	records := []metadata.Record{{Event: c.finish(err), Uses: c.usesOf(c.caller.Account), Refusal: c.refusal}}
	if len(owners) == 0 {
		return records
	}
	own := c.event
	for _, owner := range owners {
		c.event.EventID, c.event.RecipientAccount = uuid.NewString(), owner
		c.event.Identity = audit.UserIdentity{Type: audit.AWSAccount, PrincipalID: c.caller.UserID, Account: c.caller.Account}
		records = append(records, metadata.Record{Event: c.finish(err), Uses: c.usesOf(owner)})
	}
	c.event = own
	return records
}

// foreignOwners are the other accounts whose keys the call was allowed to use, or
// whose role it was allowed to assume.
func (c *call) foreignOwners(err *kmsapi.Error) (owners []string) {
	if err != nil && err.Code == kmsapi.AccessDeniedException {
		return nil
	}
	for _, r := range c.resources {
		found := r.key != nil || r.target.kind == onTrust
		if r.authorised && found && r.account != c.caller.Account && !slices.Contains(owners, r.account) {
			owners = append(owners, r.account)
		}
	}
	return owners
}
