package kmsapi

import (
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxViolations is how many violations AWS reports of one request.
const maxViolations = 10

// Validate checks a request, given as a pointer to one of the request types
// or to any struct with the same tags, against the constraints of its members. It
// returns nil or a ValidationException in AWS's words ("1 validation error
// detected: …"), which never shows the value of a blob. Lengths of strings are
// counted in characters, of blobs in bytes, of lists in elements.
//
// It is safe for concurrent use. It panics on a type whose tags are wrong.
func Validate(in any) *Error {
	v := reflect.ValueOf(in).Elem()
	var r report
	planOf(v.Type()).check(&r, v, "")
	if len(r.found) == 0 {
		return nil
	}
	return violations(r.found)
}

// violations is the exception that lists texts.
func violations(texts []string) *Error {
	plural := ""
	if len(texts) > 1 {
		plural = "s"
	}
	return invalid(strconv.Itoa(len(texts)) + " validation error" + plural + " detected: " + strings.Join(texts, "; "))
}

func nullText(path string) string {
	return "Value null at '" + path + "'" + failed + "Member must not be null"
}

const failed = " failed to satisfy constraint: "

// report collects violations up to the limit.
type report struct{ found []string }

func (r *report) full() bool { return len(r.found) >= maxViolations }

func (r *report) add(text string) {
	if !r.full() {
		r.found = append(r.found, text)
	}
}

func (p *plan) check(r *report, v reflect.Value, prefix string) {
	for i := range p.members {
		if r.full() {
			return
		}
		m := &p.members[i]
		m.check(r, v, v.FieldByIndex(m.index), prefix)
	}
}

// check looks at one member; parent is the struct that it stands in.
func (m *member) check(r *report, parent, v reflect.Value, prefix string) {
	if isAbsent(v) {
		if m.required && !m.waived(parent) {
			r.add(m.absent(prefix + m.name))
		}
		return
	}
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch {
	case m.nested == nil:
		m.checkRules(r, v, prefix)
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			m.nested.check(r, v.Index(i), prefix+m.name+"."+strconv.Itoa(i+1)+".member.")
		}
	default:
		m.nested.check(r, v, prefix+m.name+".")
	}
}

func isAbsent(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return v.IsNil()
	default:
		return false
	}
}

func (m *member) waived(parent reflect.Value) bool {
	return m.unless != nil && parent.FieldByIndex(m.unless).Len() > 0
}

func (m *member) absent(path string) string {
	if m.display == displayNothing {
		return "Value at '" + path + "'" + failed + "Member must not be null"
	}
	return nullText(path)
}

func (m *member) checkRules(r *report, v reflect.Value, prefix string) {
	for _, rule := range m.rules {
		if text := rule.broken(v); text != "" {
			r.add("Value " + m.shown(v) + "at '" + prefix + m.name + "'" + failed + text)
		}
	}
	if len(m.each) > 0 && m.anyBroken(v) {
		r.add("Value " + m.shown(v) + "at '" + prefix + m.name + "'" + failed + m.eachText)
	}
}

func (m *member) anyBroken(list reflect.Value) bool {
	for i := range list.Len() {
		for _, rule := range m.each {
			if rule.broken(list.Index(i)) != "" {
				return true
			}
		}
	}
	return false
}

// shown is the value as the text quotes it, with a space after it.
func (m *member) shown(v reflect.Value) string {
	switch {
	case m.display != displayValue:
		return ""
	case v.Kind() == reflect.String:
		return "'" + v.String() + "' "
	case v.Kind() == reflect.Slice:
		elements := make([]string, v.Len())
		for i := range elements {
			elements[i] = v.Index(i).String()
		}
		return "'[" + strings.Join(elements, ", ") + "]' "
	default:
		return "'" + strconv.FormatInt(v.Int(), 10) + "' "
	}
}

// rule is one constraint. broken is empty if v keeps it, and otherwise the
// constraint's text.
type rule interface{ broken(v reflect.Value) string }

// bounds are the least and the greatest value or length.
type bounds struct {
	min, max        int64
	tooLow, tooHigh string
	measure         func(v reflect.Value) int64
}

func (b bounds) broken(v reflect.Value) string {
	switch n := b.measure(v); {
	case n < b.min:
		return b.tooLow
	case n > b.max:
		return b.tooHigh
	default:
		return ""
	}
}

func lengthOf(v reflect.Value) int64 {
	if v.Kind() == reflect.String {
		return int64(utf8.RuneCountInString(v.String()))
	}
	return int64(v.Len())
}

func valueOf(v reflect.Value) int64 { return v.Int() }

// membership is the constraint of an enum.
type membership struct {
	values []string
	text   string
}

func (e membership) broken(v reflect.Value) string {
	s := v.String()
	for _, value := range e.values {
		if s == value {
			return ""
		}
	}
	return e.text
}
