package audit

import (
	"maps"
	"slices"
	"strconv"
	"time"
)

// Members is the content of a JSON object in an [Event], in the order in which
// it is written. Nil is the JSON null; empty but not nil is {}.
type Members []Member

// Member is one member of an object, or, without a name, one item of a list.
// It is made by the functions below and not changed afterwards.
type Member struct {
	Name string

	kind   kind
	number int64             // kindInt; kindBool: 0 or 1
	text   string            // kindString
	pairs  map[string]string // kindMap
	items  Members           // kindObject, kindList
}

type kind uint8

const (
	kindString kind = iota
	kindInt
	kindBool
	kindMap
	kindObject
	kindList
)

// String is a member with a string value. Invalid UTF-8 is replaced by U+FFFD
// when it is encoded, as in all other strings.
func String(name, value string) Member {
	return Member{Name: name, kind: kindString, text: value}
}

// Int is a member with a number.
func Int(name string, value int64) Member {
	return Member{Name: name, kind: kindInt, number: value}
}

// Bool is a member with a truth value.
func Bool(name string, value bool) Member {
	m := Member{Name: name, kind: kindBool}
	if value {
		m.number = 1
	}
	return m
}

// Map is a member with an object of strings, an encryption context for
// instance. It is written in the order of its keys' bytes.
func Map(name string, value map[string]string) Member {
	return Member{Name: name, kind: kindMap, pairs: value}
}

// Object is a member with an object.
func Object(name string, members ...Member) Member {
	return Member{Name: name, kind: kindObject, items: members}
}

// List is a member with an array. The names of its items are not written.
func List(name string, items ...Member) Member {
	return Member{Name: name, kind: kindList, items: items}
}

// Strings is a member with an array of strings.
func Strings(name string, values []string) Member {
	items := make(Members, len(values))
	for i, v := range values {
		items[i] = String("", v)
	}
	return List(name, items...)
}

// Date is a member with a time as CloudTrail prints it in parameters and
// results, in UTC to the second: "Nov 2, 2021, 11:25:25 PM".
func Date(name string, t time.Time) Member {
	return String(name, t.UTC().Format("Jan 2, 2006, 3:04:05 PM"))
}

// text is the value of a string member, "" if there is none of that name.
func (ms Members) text(name string) string {
	for i := range ms {
		if ms[i].Name == name {
			return ms[i].text
		}
	}
	return ""
}

// appendJSON appends the members as an object, or null.
func (ms Members) appendJSON(b []byte) []byte {
	if ms == nil {
		return append(b, "null"...)
	}
	return appendObject(b, ms)
}

func appendObject(b []byte, ms Members) []byte {
	b = append(b, '{')
	for i := range ms {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, ms[i].Name)
		b = append(b, ':')
		b = ms[i].appendValue(b)
	}
	return append(b, '}')
}

func (m *Member) appendValue(b []byte) []byte {
	switch m.kind {
	case kindInt:
		return strconv.AppendInt(b, m.number, 10)
	case kindBool:
		return strconv.AppendBool(b, m.number == 1)
	case kindMap:
		return appendMap(b, m.pairs)
	case kindObject:
		return appendObject(b, m.items)
	case kindList:
		return appendList(b, m.items)
	default:
		return appendString(b, m.text)
	}
}

func appendMap(b []byte, pairs map[string]string) []byte {
	b = append(b, '{')
	var few [8]string // keeps the keys of a usual map off the heap
	keys := slices.AppendSeq(few[:0], maps.Keys(pairs))
	slices.Sort(keys)
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, k)
		b = append(b, ':')
		b = appendString(b, pairs[k])
	}
	return append(b, '}')
}

func appendList(b []byte, items Members) []byte {
	b = append(b, '[')
	for i := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = items[i].appendValue(b)
	}
	return append(b, ']')
}
