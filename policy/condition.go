package policy

import "strings"

// condition is one key of one operator.
type condition struct {
	operator, name string   // as written
	wanted         []string // as written

	key      string // name in lower case
	hidden   bool   // a key that this kind of document does not see
	values   []matcher
	negated  bool
	all      bool // every value of the request must pass, else one suffices
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

// got returns the request's values of the condition's key.
func (c *condition) got(ctx Context) []string {
	if c.hidden {
		return nil
	}
	return lookUp(ctx, c.key)
}

// holds tells whether the condition is fulfilled in a statement that denies or
// allows: too many aliases to judge refuse the request either way.
func (c *condition) holds(ctx Context, deny bool) bool {
	values := c.got(ctx)
	switch {
	case c.key == resourceAliases && len(values) > maxResourceAliases:
		return deny
	case c.null:
		return c.wantAbsent && len(values) == 0 || c.wantPresent && len(values) > 0
	case len(values) == 0:
		return c.all || c.ifExists
	}
	for _, v := range values {
		if c.passes(v, ctx) != c.all {
			return !c.all
		}
	}
	return c.all
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
