package policy

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// node is a JSON value that keeps the order of its members.
type node struct {
	kind    nodeKind
	text    string // a string's value, a number's or boolean's literal
	members []member
	items   []node
}

type member struct {
	name  string
	value node
}

type nodeKind uint8

const (
	null nodeKind = iota
	text
	number
	boolean
	list
	object
)

// member finds a member by its exact name.
func (n *node) member(name string) (node, bool) {
	for _, m := range n.members {
		if m.name == name {
			return m.value, true
		}
	}
	return node{}, false
}

// readDocument reads one JSON object: valid UTF-8, no duplicate members, no
// deeper than maxDepth, nothing behind it.
func readDocument(document string) (node, error) {
	if len(document) > MaxDocumentBytes {
		return node{}, &SyntaxError{Problem: fmt.Sprintf("longer than %d bytes", MaxDocumentBytes)}
	}
	if !utf8.ValidString(document) {
		return node{}, &SyntaxError{Problem: "not UTF-8"}
	}
	r := reader{json.NewDecoder(strings.NewReader(document))}
	r.dec.UseNumber()
	root, err := r.value("", 0)
	if err != nil {
		return node{}, err
	}
	if root.kind != object {
		return node{}, &SyntaxError{Problem: "must be a JSON object"}
	}
	if _, err := r.dec.Token(); err != io.EOF {
		return node{}, r.invalid()
	}
	return root, nil
}

type reader struct{ dec *json.Decoder }

func (r reader) invalid() error {
	return &SyntaxError{Problem: fmt.Sprintf("invalid JSON at byte %d", r.dec.InputOffset())}
}

func (r reader) value(path string, depth int) (node, error) {
	token, err := r.dec.Token()
	if err != nil {
		return node{}, r.invalid()
	}
	switch t := token.(type) {
	case string:
		return node{kind: text, text: t}, nil
	case json.Number:
		return node{kind: number, text: t.String()}, nil
	case bool:
		return node{kind: boolean, text: fmt.Sprint(t)}, nil
	case json.Delim:
		if depth == maxDepth {
			return node{}, &SyntaxError{Path: path, Problem: "nested too deeply"}
		}
		if t == '{' {
			return r.object(path, depth+1)
		}
		return r.list(path, depth+1)
	}
	return node{kind: null}, nil
}

func (r reader) object(path string, depth int) (node, error) {
	n := node{kind: object}
	seen := map[string]bool{}
	for r.dec.More() {
		token, err := r.dec.Token()
		if err != nil {
			return node{}, r.invalid()
		}
		name := token.(string) // the decoder takes nothing else here
		here := within(path, name)
		if seen[name] {
			return node{}, &SyntaxError{Path: here, Problem: "given twice"}
		}
		seen[name] = true
		v, err := r.value(here, depth)
		if err != nil {
			return node{}, err
		}
		n.members = append(n.members, member{name, v})
	}
	return n, r.end()
}

func (r reader) list(path string, depth int) (node, error) {
	n := node{kind: list}
	for r.dec.More() {
		v, err := r.value(index(path, len(n.items)), depth)
		if err != nil {
			return node{}, err
		}
		n.items = append(n.items, v)
	}
	return n, r.end()
}

// end reads the delimiter that closes an object or list.
func (r reader) end() error {
	if _, err := r.dec.Token(); err != nil {
		return r.invalid()
	}
	return nil
}

// within is the path of a member, index that of a list's item.
func within(path, name string) string {
	if path == "" {
		return brief(name)
	}
	return path + "." + brief(name)
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// brief cuts what a document's author wrote to a length fit for an error.
func brief(s string) string {
	const most = 64 // bytes
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
