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
		if pieces, ok = resolve(pieces, ctx, utf8.UTFMax*len(s)); !ok {
			return false
		}
	}
	c := cursor{rest: s, fold: p.fold}
	return c.run(pieces)
}

// resolve puts the request's values in the place of variables, as literals of no
// more than most bytes together: longer ones cover no text of a fourth of that.
func resolve(pieces []piece, ctx Context, most int) ([]piece, bool) {
	resolved := make([]piece, len(pieces))
	for i, p := range pieces {
		tokens := make([]token, 0, len(p.tokens))
		for _, t := range p.tokens {
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
			if most -= len(t.text); most < 0 {
				return nil, false
			}
			tokens = append(tokens, t)
		}
		p.tokens = joinLiterals(tokens)
		resolved[i] = p
	}
	return resolved, true
}

// cursor goes through a text that is matched with a pattern.
type cursor struct {
	rest string // what is not yet covered
	fold bool   // letter case does not matter

	// steps counts the comparisons of a character, so that their number can be
	// held to a bound.
	steps int
}

// run tells whether the pieces cover the whole text. Every piece between two '*'
// takes the first place that it can: what a later one left would only be less.
func (c *cursor) run(pieces []piece) bool {
	if !c.cutPrefix(&pieces[0]) {
		return false
	}
	if len(pieces) == 1 {
		return c.rest == ""
	}
	last := len(pieces) - 1
	if !c.cutSuffix(&pieces[last]) {
		return false
	}
	for i := 1; i < last; i++ {
		if !c.cutThrough(&pieces[i]) {
			return false
		}
	}
	return true
}

// cutPrefix takes what the piece covers from the front.
func (c *cursor) cutPrefix(p *piece) (ok bool) {
	for i := range p.tokens {
		t := &p.tokens[i]
		switch {
		case t.kind == anyOne:
			_, size := utf8.DecodeRuneInString(c.rest)
			c.rest, ok = c.rest[size:], size > 0
			c.steps++
		case c.fold:
			ok = c.cutPrefixFold(t.text)
		default:
			c.rest, ok = strings.CutPrefix(c.rest, t.text)
			c.steps += len(t.text)
		}
		if !ok {
			return false
		}
	}
	return true
}

// cutSuffix takes what the piece covers from the end. Folding is for actions
// here, which are ASCII.
func (c *cursor) cutSuffix(p *piece) (ok bool) {
	for i := len(p.tokens) - 1; i >= 0; i-- {
		t := &p.tokens[i]
		end := len(c.rest) - len(t.text)
		switch {
		case t.kind == anyOne:
			_, size := utf8.DecodeLastRuneInString(c.rest)
			end, ok = len(c.rest)-size, size > 0
			c.steps++
		case c.fold:
			ok = end >= 0 && strings.EqualFold(c.rest[end:], t.text)
			c.steps += len(t.text)
		default:
			ok = strings.HasSuffix(c.rest, t.text)
			c.steps += len(t.text)
		}
		if !ok {
			return false
		}
		c.rest = c.rest[:end]
	}
	return true
}

// cutThrough finds the first place that the piece covers and takes what ends
// there from the front.
func (c *cursor) cutThrough(p *piece) (ok bool) {
	switch {
	case c.fold: // an action: short
		for s := c.rest; s != ""; s = s[1:] {
			if c.rest = s; c.cutPrefix(p) {
				return true
			}
		}
		return false
	case p.last == 0: // one literal
		c.steps += len(c.rest) // what strings.Cut takes, but for a small factor
		_, c.rest, ok = strings.Cut(c.rest, p.tokens[0].text)
		return ok
	}
	// Shift-And: the positions, as bits, that the characters so far can end at.
	ends := uint64(0)
	for i, r := range c.rest {
		c.steps += len(p.search) + 1
		if ends = (ends<<1 | 1) & p.positions(r); ends&p.last != 0 {
			_, size := utf8.DecodeRuneInString(c.rest[i:])
			c.rest = c.rest[i+size:]
			return true
		}
	}
	return false
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
func (c *cursor) cutPrefixFold(prefix string) bool {
	for _, want := range prefix {
		got, size := utf8.DecodeRuneInString(c.rest)
		c.steps++
		if size == 0 || got != want && foldRune(got) != foldRune(want) {
			return false
		}
		c.rest = c.rest[size:]
	}
	return true
}

func foldRune(r rune) rune { return unicode.ToLower(unicode.ToUpper(r)) }
