package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// pattern is a text of a document that values are matched with: literals,
// wildcards and policy variables.
type pattern struct {
	tokens    []token
	fold      bool // letter case does not matter
	variables bool // there is a variable among the tokens
}

type token struct {
	kind tokenKind
	text string // of a literal; the key of a variable, in lower case

	fallback    string // of a variable, for a request without the key
	hasFallback bool
}

type tokenKind uint8

const (
	literal  tokenKind = iota
	anyOne             // ?, one character
	anyRun             // *, any number of characters
	variable           // ${key} or ${key, 'fallback'}
)

// syntax is which characters of a text are special.
type syntax uint8

const (
	wildcards syntax = 1 << iota
	variables
)

// compilePattern returns what is wrong with the text, if anything.
func compilePattern(s string, special syntax) (p pattern, problem string) {
	for s != "" {
		var t token
		switch {
		case special&variables != 0 && strings.HasPrefix(s, "${"):
			end := strings.IndexByte(s, '}')
			if end < 0 {
				return pattern{}, "a policy variable without its closing brace"
			}
			if t, problem = compileVariable(s[len("${"):end]); problem != "" {
				return pattern{}, problem
			}
			s = s[end+1:]
		case special&wildcards != 0 && s[0] == '*':
			t, s = token{kind: anyRun}, strings.TrimLeft(s, "*")
		case special&wildcards != 0 && s[0] == '?':
			t, s = token{kind: anyOne}, s[1:]
		default:
			end := 1 + literalEnd(s[1:], special)
			t, s = token{text: s[:end]}, s[end:]
		}
		p.variables = p.variables || t.kind == variable
		p.tokens = append(p.tokens, t)
	}
	return p, ""
}

// literalEnd is where the next special character stands in s.
func literalEnd(s string, special syntax) int {
	for i := range len(s) {
		if special&wildcards != 0 && (s[i] == '*' || s[i] == '?') ||
			special&variables != 0 && strings.HasPrefix(s[i:], "${") {
			return i
		}
	}
	return len(s)
}

// compileVariable reads what stands between the braces of a variable.
//
// IAM User Guide, "Policy variables": ${key}, ${key, 'fallback'} and the
// escapes ${*}, ${?} and ${$}.
func compileVariable(s string) (t token, problem string) {
	if s == "*" || s == "?" || s == "$" {
		return token{text: s}, ""
	}
	key, rest, hasFallback := strings.Cut(s, ",")
	if problem := checkKey(key); problem != "" {
		return token{}, "a policy variable whose key is " + problem
	}
	t = token{kind: variable, text: strings.ToLower(key), hasFallback: hasFallback}
	if !hasFallback {
		return t, ""
	}
	rest = strings.TrimSpace(rest)
	inner := strings.TrimSuffix(strings.TrimPrefix(rest, "'"), "'")
	if len(rest) != len(inner)+2 || strings.Contains(inner, "'") {
		return token{}, "a policy variable whose default is not in single quotes"
	}
	t.fallback = inner
	return t, ""
}

// checkKey tells what is wrong with the name of a condition key.
func checkKey(key string) string {
	prefix, name, _ := strings.Cut(key, ":")
	if prefix == "" || name == "" || strings.TrimSpace(key) != key {
		return "not of the form service:name"
	}
	return ""
}

// matches tells whether the pattern covers the whole of s. A variable that the
// request does not have, or has several values for, covers nothing.
func (p *pattern) matches(s string, ctx Context) bool {
	tokens := p.tokens
	if p.variables {
		var ok bool
		if tokens, ok = resolve(tokens, ctx); !ok {
			return false
		}
	}
	return glob(tokens, s, p.fold)
}

// resolve puts the request's values in the place of variables, as literals.
func resolve(tokens []token, ctx Context) ([]token, bool) {
	resolved := make([]token, 0, len(tokens))
	for _, t := range tokens {
		if t.kind == variable {
			values := lookUp(ctx, t.text)
			switch {
			case len(values) == 1:
				t = token{text: values[0]}
			case len(values) == 0 && t.hasFallback:
				t = token{text: t.fallback}
			default:
				return nil, false
			}
		}
		resolved = append(resolved, t)
	}
	return resolved, true
}

// glob matches without recursion and never goes back further than the last
// '*', so that its time is bounded by the product of both lengths.
func glob(tokens []token, s string, fold bool) bool {
	i, run, resume := 0, -1, "" // run is the last '*', resume the text behind what it has swallowed
	for {
		switch {
		case i == len(tokens) && s == "":
			return true
		case i < len(tokens) && tokens[i].kind == anyRun:
			if i == len(tokens)-1 {
				return true
			}
			run, resume = i, s
			i++
			continue
		case i < len(tokens):
			if rest, ok := tokens[i].cut(s, fold); ok {
				s = rest
				i++
				continue
			}
		}
		if run < 0 || resume == "" {
			return false
		}
		_, size := utf8.DecodeRuneInString(resume)
		resume = resume[size:]
		i, s = run+1, resume
	}
}

// cut takes what the token matches from the front of s.
func (t *token) cut(s string, fold bool) (rest string, ok bool) {
	switch {
	case t.kind == anyOne:
		_, size := utf8.DecodeRuneInString(s)
		return s[size:], size > 0
	case fold:
		return cutPrefixFold(s, t.text)
	}
	return strings.CutPrefix(s, t.text)
}

// cutPrefixFold is strings.CutPrefix for any letter case.
func cutPrefixFold(s, prefix string) (rest string, ok bool) {
	for _, want := range prefix {
		got, size := utf8.DecodeRuneInString(s)
		if size == 0 || got != want && foldRune(got) != foldRune(want) {
			return "", false
		}
		s = s[size:]
	}
	return s, true
}

func foldRune(r rune) rune { return unicode.ToLower(unicode.ToUpper(r)) }

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

// compileResource reads "*" or an ARN, in which variables may stand behind the
// fifth colon only. Any other value of a key policy matches nothing.
func compileResource(s string, special syntax, resourceBased bool) (resource, string) {
	if s == "*" {
		return resource{arn: arnPattern{whole: pattern{tokens: []token{{kind: anyRun}}}}}, ""
	}
	fields := splitARN(s, special)
	if len(fields) != arnFields || fields[0] != "arn" {
		if resourceBased {
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
