package policy

import (
	"fmt"
	"strings"

	"kmsgate/gateway/arn"
)

// Format lays a document out as KMS gives it back: members in the order
// written, one a line, two spaces a level, lists on one line. The document need
// not be a policy, only JSON that Parse could read; else the error is a *SyntaxError.
func Format(document string) (string, error) {
	root, err := readDocument(document)
	if err != nil {
		return "", err
	}
	return root.layout(), nil
}

// DefaultKeyPolicy is the policy of a key that was made without one, in the
// layout of Format: the account may do everything and IAM decides who in it.
//
// KMS Developer Guide, "Default key policy".
func DefaultKeyPolicy(account string) string {
	return `{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {
      "AWS" : "` + arn.Root(account) + `"
    },
    "Action" : "kms:*",
    "Resource" : "*"
  } ]
}`
}

// layout is n in the layout of Format.
func (n *node) layout() string {
	var b strings.Builder
	write(&b, n, "\n")
	return b.String()
}

// write appends a value; newline is a line break and the indentation of the
// line that the value begins on.
func write(b *strings.Builder, n *node, newline string) {
	switch n.kind {
	case object:
		writeObject(b, n, newline)
	case list:
		b.WriteString("[ ")
		for i := range n.items {
			if i > 0 {
				b.WriteString(", ")
			}
			write(b, &n.items[i], newline)
		}
		if len(n.items) > 0 {
			b.WriteByte(' ')
		}
		b.WriteByte(']')
	case text:
		writeText(b, n.text)
	case number, boolean:
		b.WriteString(n.text)
	case null:
		b.WriteString("null")
	}
}

func writeObject(b *strings.Builder, n *node, newline string) {
	if len(n.members) == 0 {
		b.WriteString("{ }")
		return
	}
	inner := newline + "  "
	b.WriteByte('{')
	for i := range n.members {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(inner)
		writeText(b, n.members[i].name)
		b.WriteString(" : ")
		write(b, &n.members[i].value, inner)
	}
	b.WriteString(newline)
	b.WriteByte('}')
}

// escapes are the characters of a JSON string that have a short escape.
var escapes = map[rune]string{
	'"': `\"`, '\\': `\\`, '\b': `\b`, '\t': `\t`, '\n': `\n`, '\f': `\f`, '\r': `\r`,
}

func writeText(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, c := range s {
		switch short, ok := escapes[c]; {
		case ok:
			b.WriteString(short)
		case c < ' ':
			fmt.Fprintf(b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
}
