package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// pattern is a text of a document that values are matched with: literals,
// wildcards and policy variables. Its time is bounded by the length of the
// value for each of its pieces, whatever the document's author has written.
type pattern struct {
	pieces    []piece // what stands before, between and behind the '*'s
	fold      bool    // letter case does not matter
	variables bool    // there is a variable in it
}

// piece is a part of a pattern without '*'.
type piece struct {
	tokens []token // never two literals in a row

	// search is for a piece with '?' between two '*': the characters that it
	// has, and the positions, as bits, at which each may stand. Those of a '?'
	// are in elsewhere too, which holds for all other characters.
	search    []positions
	elsewhere uint64
	last      uint64 // the last position
}

type positions struct {
	of   rune
	bits uint64
}

const maxSearched = 64 // characters: the bits of a word

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
	variable           // ${key} or ${key, 'fallback'}
)

// syntax is which characters of a text are special.
type syntax uint8

const (
	wildcards syntax = 1 << iota
	variables
	hiding // variables of keys that key policies do not see are never set
)

// compilePattern returns what is wrong with the text, if anything.
func compilePattern(s string, special syntax) (p pattern, problem string) {
	p.pieces = make([]piece, 1)
	for s != "" {
		last := &p.pieces[len(p.pieces)-1]
		switch {
		case special&variables != 0 && strings.HasPrefix(s, "${"):
			end := strings.IndexByte(s, '}')
			if end < 0 {
				return pattern{}, "a policy variable without its closing brace"
			}
			t, problem := compileVariable(s[len("${"):end])
			if problem != "" {
				return pattern{}, problem
			}
			if special&hiding != 0 && isHiddenFromKeyPolicies(t.text) {
				t.text = "" // no key's name
			}
			p.variables = p.variables || t.kind == variable
			last.tokens = append(last.tokens, t)
			s = s[end+1:]
		case special&wildcards != 0 && s[0] == '*':
			p.pieces = append(p.pieces, piece{})
			s = strings.TrimLeft(s, "*")
		case special&wildcards != 0 && s[0] == '?':
			last.tokens = append(last.tokens, token{kind: anyOne})
			s = s[1:]
		default:
			end := 1 + literalEnd(s[1:], special)
			last.tokens = append(last.tokens, token{text: s[:end]})
			s = s[end:]
		}
	}
	for i := range p.pieces {
		p.pieces[i].tokens = joinLiterals(p.pieces[i].tokens)
	}
	for i := 1; i < len(p.pieces)-1; i++ {
		if problem := p.pieces[i].prepare(); problem != "" {
			return pattern{}, problem
		}
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

// joinLiterals makes one literal of those in a row.
func joinLiterals(tokens []token) []token {
	joined := make([]token, 0, len(tokens))
	for i := 0; i < len(tokens); i++ {
		if tokens[i].kind != literal {
			joined = append(joined, tokens[i])
			continue
		}
		var text strings.Builder
		text.WriteString(tokens[i].text)
		for ; i+1 < len(tokens) && tokens[i+1].kind == literal; i++ {
			text.WriteString(tokens[i+1].text)
		}
		joined = append(joined, token{text: text.String()})
	}
	return joined
}

// prepare readies a piece between two '*' for being searched for. The limits on
// a piece with '?' are ours: without them a search could take the product of
// both lengths.
func (p *piece) prepare() (problem string) {
	size, hasOne, hasVariable := 0, false, false
	for _, t := range p.tokens {
		switch t.kind {
		case anyOne:
			hasOne = true
			size++
		case variable:
			hasVariable = true
		case literal:
			size += utf8.RuneCountInString(t.text)
		}
	}
	switch {
	case !hasOne:
		return ""
	case hasVariable:
		return "a policy variable and a ? between the same two *"
	case size > maxSearched:
		return fmt.Sprintf("more than %d characters, ? among them, between two *", maxSearched)
	}
	p.last = 1 << (size - 1)
	p.place()
	return ""
}

// place fills in search and elsewhere.
func (p *piece) place() {
	bit, at := uint64(1), map[rune]uint64{}
	for _, t := range p.tokens {
		if t.kind == anyOne {
			p.elsewhere |= bit
			bit <<= 1
		}
		for _, r := range t.text {
			at[r] |= bit
			bit <<= 1
		}
	}
	for r, bits := range at {
		p.search = append(p.search, positions{r, bits | p.elsewhere})
	}
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
	t.fallback = strings.TrimSuffix(strings.TrimPrefix(rest, "'"), "'")
	if len(rest) != len(t.fallback)+2 || strings.Contains(t.fallback, "'") {
		return token{}, "a policy variable whose default is not in single quotes"
	}
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
