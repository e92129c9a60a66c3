package policy

import "strings"

// arnPattern matches the six fields of an ARN one by one; whole stands for a
// pattern that is not of six fields.
//
// IAM User Guide, "ARN condition operators".
type arnPattern struct {
	fields []pattern
	whole  pattern
}

const arnFields = 6

func (a *arnPattern) matches(s string, ctx Context) bool {
	if a.fields == nil {
		return a.whole.matches(s, ctx)
	}
	for i := range a.fields {
		field, rest, more := s, "", false
		if i < arnFields-1 {
			if field, rest, more = strings.Cut(s, ":"); !more {
				return false
			}
		}
		if !a.fields[i].matches(field, ctx) {
			return false
		}
		s = rest
	}
	return true
}

// mayMatch tells whether some value of the variables would do: behind the fifth
// colon any text is taken for one.
func (r *resource) mayMatch(s string) bool {
	if !r.variable() {
		return r.matches(s, nil)
	}
	fixed := arnPattern{fields: r.arn.fields[:arnFields-1]}
	return fixed.matches(s, nil)
}

// variable tells whether there are policy variables in it.
func (r *resource) variable() bool {
	return r.arn.fields != nil && r.arn.fields[arnFields-1].variables
}

// splitARN splits a text at the first five colons that are not in a variable.
func splitARN(s string, special syntax) []string {
	var fields []string
	start, inVariable := 0, false
	for i := range len(s) {
		switch {
		case special&variables != 0 && strings.HasPrefix(s[i:], "${"):
			inVariable = true
		case s[i] == '}':
			inVariable = false
		case s[i] == ':' && !inVariable && len(fields) < arnFields-1:
			fields = append(fields, s[start:i])
			start = i + 1
		}
	}
	return append(fields, s[start:])
}

// resource is one value of Resource or NotResource.
type resource struct {
	never bool // a value that no resource has
	arn   arnPattern
}

func (r *resource) matches(s string, ctx Context) bool { return !r.never && r.arn.matches(s, ctx) }

// anyResource is "*".
var anyResource = resource{arn: arnPattern{whole: pattern{pieces: make([]piece, 2)}}}

// compileResource reads "*" or an ARN, in which variables may stand behind the
// fifth colon only. Any other value of a key policy matches nothing.
func compileResource(s string, special syntax, ofKey bool) (resource, string) {
	if s == "*" {
		return anyResource, ""
	}
	fields := splitARN(s, special)
	if len(fields) != arnFields || fields[0] != "arn" {
		if ofKey {
			return resource{never: true}, ""
		}
		return resource{}, `must be "*" or an ARN of six fields`
	}
	r := resource{arn: arnPattern{fields: make([]pattern, arnFields)}}
	for i, f := range fields {
		p, problem := compilePattern(f, special|wildcards)
		if p.variables && i < arnFields-1 {
			problem = "a policy variable before the last field of an ARN"
		}
		if problem != "" {
			return resource{}, problem
		}
		r.arn.fields[i] = p
	}
	return r, ""
}
