package gateway

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// An operation is one row of the API: all that differs between operations
// outside their handlers. Adding one is two wire types, a row and a method.
type operation struct {
	service service
	// name as in X-Amz-Target or Action; the IAM action is service:name.
	name string
	// targets are what the operation acts on, in the order in which they are
	// looked up, authorised and listed in the audit record.
	targets []target
	// bucket is the rate that the operation draws on; see limits.go.
	bucket bucket
	// draws says which rates the operation draws on besides, once its keys are
	// known; nil for none.
	draws func(c *call, in any) []bucket
	// makes is the member with the spec of the key, or of the data key pair, that
	// the token makes for it; empty for none.
	makes string
	// anonymous: nobody signs the request; identify finds out who calls from what is
	// in it.
	anonymous bool
	// identify sets the caller of an anonymous operation, once the request is
	// decoded and found within its constraints. Nil for signed operations.
	identify func(c *call, in any) error
	// readOnly as CloudTrail has it: true for all cryptographic operations.
	readOnly bool
	// records are the request members that the audit record keeps; every
	// other member is left out, secrets above all.
	records []string
	// refusal is why the operation is not served; nil for those that are.
	refusal *refusal
	typed
}

// action is the IAM action of one of the operation's targets.
func (o *operation) action(t *target) string { return string(o.service) + ":" + t.action }

// service is a SigV4 service name.
type service string

const (
	serviceKMS service = "kms"
	serviceSTS service = "sts"
	serviceIAM service = "iam"
)

// eventSource is CloudTrail's name of the service.
func (s service) eventSource() string { return string(s) + ".amazonaws.com" }

// targetKind says what sort of thing a target is.
type targetKind uint8

const (
	onAccount     targetKind = iota // no resource: authorised by identity on "*"
	onKey                           // a key named by a member
	onCiphertext                    // the key that made a ciphertext, optionally named too
	onReplica                       // no resource: authorised by identity on "*" in the Region that the replica of the target before is made in
	onAlias                         // an alias by name; authorised by identity on the alias
	onAliasTarget                   // the key that the alias named by a member points to now
	onRelated                       // the key related to the target before, by its Region; none unless that is a primary key
	onGrant                         // a grant by token, or by key and id: it says itself who may end it
	onPrincipal                     // a principal by ARN; authorised by identity on the ARN

	// Of IAM, named by a member: by name, where it is not said otherwise.
	onUser
	onGroup
	onRole
	onPolicy   // a managed policy, by ARN; by its name if it is to be made
	onProvider // an OIDC provider, by ARN; by its URL if it is to be made
	onHolder   // the user, or the account's root, who has an access key; by that key's id

	// onTrust is a role by ARN, of any account: its trust policy decides, as a key
	// policy does about a key.
	onTrust
)

// holdsKey are the kinds of targets that are keys.
var holdsKey = map[targetKind]bool{onKey: true, onCiphertext: true, onAliasTarget: true, onRelated: true}

// nameless are the kinds of targets that no member names.
var nameless = map[targetKind]bool{onAccount: true, onReplica: true}

// A target is one thing that an operation acts on and how it is admitted.
type target struct {
	kind targetKind
	// member of the request that names it, by its wire name.
	member string
	// side is what the names of the members about it begin with, in an
	// operation with two keys: Source, Destination.
	side string
	// blob is the member with the ciphertext; onCiphertext only.
	blob string
	// action is the IAM action on it, without the service.
	action string
	// forms of identifier that are allowed.
	forms arn.Form
	// makes: it does not exist yet. Its ARN is made of the member and of the request's
	// Path.
	makes bool
	// self: the member may be absent, and then the caller itself is meant: the user,
	// or the account's root.
	self bool
	// place is the member with the Region that it will be in, and draws are the rates of
	// that Region that its making draws on; onReplica only.
	place string
	draws []bucket
	// optional: the member may be absent, and then there is no such target.
	optional bool
	// with is another member that may be absent, and then there is no such target;
	// empty for none.
	with string
	// inherits tells whether the caller's session makes it a target all the same.
	// Nil: it does not.
	inherits func(*call) bool
	// foreign: usable on a key of another account, named by ARN.
	foreign bool
	// services: the operation changes nothing of a key that is a service's, and so
	// may be used on one although it is not read-only.
	services bool
	// usage that the key must have; empty for any.
	usage keyspec.Usage
	// public: its token is asked for the public key, whatever the usage.
	public bool
	// origin that the key must have; empty for any.
	origin keyspec.Origin
	// token: its token is asked, whatever the usage.
	token bool
	// states in which the operation is allowed; zero for every state.
	states metadata.States
	// otherwise is what is said of other states. Nil: what they are.
	otherwise func(arn string, state kmsapi.KeyState) *kmsapi.Error
}

// work is what a handler's check step found fit to be done. Both steps are
// optional; do runs first.
type work[Out any] struct {
	// do calls the token or reads; it changes nothing in Postgres and no
	// transaction is open while it runs.
	do func(context.Context) (*Out, error)
	// commit makes a change. The pipeline gives it a transaction and writes the
	// audit record into the same one. It may run again if the transaction has
	// to be repeated.
	commit func(context.Context, *metadata.Tx) (*Out, error)
	// wakes is the job of package reconcile that goes on with what was committed;
	// empty for none.
	wakes string
}

// erased is work without its types.
type erased struct {
	do     func(context.Context) (any, error)
	commit func(context.Context, *metadata.Tx) (any, error)
	wakes  string
}

// typed is an operation's handler with the request and response types erased.
type typed struct {
	newRequest func() any
	// complete fills in the defaults that AWS makes visible and refuses what
	// can be refused without looking anything up.
	complete func(in any) error
	check    func(c *call, in any) (erased, error)
	// fields of the request type by wire name.
	fields map[string][]int
}

// do ties a handler into a row: the only place where its types are erased.
// complete may be nil.
func do[In, Out any](complete func(*In) error, check func(*call, *In) (work[Out], error)) typed {
	return typed{
		newRequest: func() any { return new(In) },
		complete: func(in any) error {
			if complete == nil {
				return nil
			}
			return complete(in.(*In))
		},
		check: func(c *call, in any) (erased, error) {
			w, err := check(c, in.(*In))
			if err != nil {
				return erased{}, err
			}
			e := erased{wakes: w.wakes}
			if w.do != nil {
				e.do = func(ctx context.Context) (any, error) { return erase(w.do(ctx)) }
			}
			if w.commit != nil {
				e.commit = func(ctx context.Context, tx *metadata.Tx) (any, error) { return erase(w.commit(ctx, tx)) }
			}
			return e, nil
		},
		fields: fieldsByWireName(reflect.TypeFor[In](), nil),
	}
}

func erase[Out any](out *Out, err error) (any, error) {
	if out == nil || err != nil {
		return nil, err // an untyped nil, not a nil *Out in an interface
	}
	return out, nil
}

// fieldsByWireName maps the wire names of a request type's members, those of
// embedded structs included, to their field indexes.
func fieldsByWireName(t reflect.Type, prefix []int) map[string][]int {
	fields := map[string][]int{}
	if t.Kind() != reflect.Struct {
		return fields
	}
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(append([]int(nil), prefix...), i)
		if f.Anonymous {
			for name, embedded := range fieldsByWireName(f.Type, index) {
				fields[name] = embedded
			}
			continue
		}
		fields[wireName(f)] = index
	}
	return fields
}

// wireName is a field's name in the JSON or XML of its API.
func wireName(f reflect.StructField) string {
	for _, key := range []string{"json", "xml"} {
		name, _, _ := strings.Cut(f.Tag.Get(key), ",")
		if name, _, _ = strings.Cut(name, ">"); name != "" {
			return name
		}
	}
	return f.Name
}

// member is a request's member by its wire name. A row that names a member its
// request type does not have is found by a test over all rows.
func (t *typed) member(in any, name string) reflect.Value {
	index, ok := t.fields[name]
	if !ok {
		panic(fmt.Sprintf("gateway: request %T has no member %s", in, name))
	}
	return reflect.ValueOf(in).Elem().FieldByIndex(index)
}

// text is the string in a member; empty if it is absent.
func (t *typed) text(in any, name string) string {
	v := t.member(in, name)
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	return v.String()
}
