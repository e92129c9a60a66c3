package policy

import (
	"slices"
	"strings"
)

// condition is one key of one operator.
type condition struct {
	operator, name string   // as written
	wanted         []string // as written

	key      string // name in lower case
	hidden   bool   // a key that this kind of document does not see
	values   []matcher
	negated  bool
	all      bool // every value of the request must pass, else one suffices
	single   bool // the key has one value, unless a request has it in several letter cases
	ifExists bool

	null                    bool // the operator Null, with the two fields below
	wantAbsent, wantPresent bool
}

const (
	forAllValues = "ForAllValues:"
	forAnyValue  = "ForAnyValue:"
	ifExists     = "IfExists"
)

// parseOperator splits an operator's name. A negated operator without prefix
// asks that none of the request's values matches, which is "all" of them pass.
func parseOperator(name string) (operator, condition, bool) {
	c := condition{operator: name}
	if name == "Null" {
		c.null = true
		return operator{}, c, true
	}
	base, forAll := strings.CutPrefix(name, forAllValues)
	base, forAny := strings.CutPrefix(base, forAnyValue)
	base, c.ifExists = strings.CutSuffix(base, ifExists)
	op, known := operators[base]
	c.negated = op.negated
	c.all = forAll || op.negated && !forAny
	return op, c, known && !(forAll && forAny)
}

// The keys that key policies do not see, and the one with a limit.
//
// KMS Developer Guide, "ABAC for AWS KMS" and "kms:ResourceAliases".
const (
	resourceAliases    = "kms:resourcealiases"
	resourceTag        = "aws:resourcetag/"
	maxResourceAliases = 50
)

func isHiddenFromKeyPolicies(key string) bool {
	return key == resourceAliases || strings.HasPrefix(key, resourceTag)
}

// isSingle tells of the keys that ForAllValues must not be used with.
func isSingle(key string) bool {
	return strings.HasPrefix(key, "kms:encryptioncontext:") || strings.HasPrefix(key, "aws:requesttag/")
}

// tagOf begins the keys that are tags, as isSingle's are pairs of the request: names in
// which letter case matters, but not in the keys of conditions.
var tagOf = []string{resourceTag, "iam:resourcetag/", "aws:principaltag/"}

// hasOneValue tells of the keys that stand for one pair or one tag.
func hasOneValue(key string) bool {
	return isSingle(key) || slices.ContainsFunc(tagOf, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

// got returns the request's values of the condition's key.
func (c *condition) got(ctx Context) []string {
	if c.hidden {
		return nil
	}
	return lookUp(ctx, c.key)
}

// holds tells whether the condition is fulfilled in a statement that denies or
// allows: too many aliases to judge refuse the request either way, and of pairs whose
// keys differ in letter case alone the one that refuses decides.
func (c *condition) holds(ctx Context, deny bool) bool {
	values, all := c.got(ctx), c.all
	if c.single && len(values) > 1 {
		all = !deny
	}
	switch {
	case c.key == resourceAliases && len(values) > maxResourceAliases:
		return deny
	case c.null:
		return c.wantAbsent && len(values) == 0 || c.wantPresent && len(values) > 0
	case len(values) == 0:
		return c.all || c.ifExists
	}
	for _, v := range values {
		if c.passes(v, ctx) != all {
			return !all
		}
	}
	return all
}

// passes tells whether one value of the request fulfils the condition.
func (c *condition) passes(value string, ctx Context) bool {
	for _, m := range c.values {
		if m.matches(value, ctx) {
			return !c.negated
		}
	}
	return c.negated
}
