package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// matches tells whether the pattern covers the whole of s. A variable that the
// request does not have, or has several values for, covers nothing.
func (p *pattern) matches(s string, ctx Context) bool {
	pieces := p.pieces
	if p.variables {
		var ok bool
		if pieces, ok = resolve(pieces, ctx); !ok {
			return false
		}
	}
	s, ok := pieces[0].cutPrefix(s, p.fold)
	if len(pieces) == 1 || !ok {
		return ok && s == ""
	}
	last := len(pieces) - 1
	if s, ok = pieces[last].cutSuffix(s, p.fold); !ok {
		return false
	}
	for i := 1; i < last; i++ {
		if s, ok = pieces[i].cutThrough(s, p.fold); !ok {
			return false
		}
	}
	return true
}

// resolve puts the request's values in the place of variables, as literals.
func resolve(pieces []piece, ctx Context) ([]piece, bool) {
	resolved := make([]piece, len(pieces))
	for i, p := range pieces {
		tokens := p.tokens
		p.tokens = make([]token, 0, len(tokens))
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
			p.add(t)
		}
		resolved[i] = p
	}
	return resolved, true
}

// cutPrefix takes what the piece covers from the front of s.
func (p *piece) cutPrefix(s string, fold bool) (rest string, ok bool) {
	for i := range p.tokens {
		t := &p.tokens[i]
		switch {
		case t.kind == anyOne:
			_, size := utf8.DecodeRuneInString(s)
			s, ok = s[size:], size > 0
		case fold:
			s, ok = cutPrefixFold(s, t.text)
		default:
			s, ok = strings.CutPrefix(s, t.text)
		}
		if !ok {
			return "", false
		}
	}
	return s, true
}

// cutSuffix takes what the piece covers from the end of s. Folding is for
// actions here, which are ASCII.
func (p *piece) cutSuffix(s string, fold bool) (rest string, ok bool) {
	for i := len(p.tokens) - 1; i >= 0; i-- {
		t := &p.tokens[i]
		end := len(s) - len(t.text)
		switch {
		case t.kind == anyOne:
			_, size := utf8.DecodeLastRuneInString(s)
			end, ok = len(s)-size, size > 0
		case fold:
			ok = end >= 0 && strings.EqualFold(s[end:], t.text)
		default:
			ok = strings.HasSuffix(s, t.text)
		}
		if !ok {
			return "", false
		}
		s = s[:end]
	}
	return s, true
}

// cutThrough finds the first place that the piece covers and takes what ends
// there from the front of s.
func (p *piece) cutThrough(s string, fold bool) (rest string, ok bool) {
	switch {
	case fold: // an action: short
		for i := range len(s) {
			if rest, ok := p.cutPrefix(s[i:], fold); ok {
				return rest, true
			}
		}
		return "", false
	case p.last == 0: // one literal
		_, rest, ok = strings.Cut(s, p.tokens[0].text)
		return rest, ok
	}
	// Shift-And: the positions, as bits, that the characters so far can end at.
	ends := uint64(0)
	for i, r := range s {
		if ends = (ends<<1 | 1) & p.positions(r); ends&p.last != 0 {
			_, size := utf8.DecodeRuneInString(s[i:])
			return s[i+size:], true
		}
	}
	return "", false
}

// positions are those at which r may stand.
func (p *piece) positions(r rune) uint64 {
	for i := range p.search {
		if p.search[i].of == r {
			return p.search[i].bits
		}
	}
	return p.elsewhere
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
