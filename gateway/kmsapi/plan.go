package kmsapi

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode"
)

// plan is what Validate does with one type.
type plan struct{ members []member }

// member is what it does with one member.
type member struct {
	index    []int  // of the field, for reflect.Value.FieldByIndex
	name     string // in lowerCamel
	required bool
	unless   []int // of the list that, if not empty, waives required
	display  display
	rules    []rule
	each     []rule // for the elements of a list
	eachText string
	nested   *plan // of a struct, or of a list's struct elements
}

// display says how much of a value the texts show.
type display int

const (
	displayValue   display = iota
	displayNull            // blobs: only that there is none
	displayNothing         // secrets: not even that
)

// plans is the cache of planOf: reflect.Type to *plan. Its entries depend on
// the type alone.
var plans sync.Map

// planOf is the plan of a struct type.
func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	p := &plan{}
	for _, f := range reflect.VisibleFields(t) {
		if f.Anonymous || !f.IsExported() {
			continue
		}
		m := memberOf(t, f)
		if m.required || len(m.rules)+len(m.each) > 0 || m.nested != nil {
			p.members = append(p.members, m)
		}
	}
	plans.Store(t, p)
	return p
}

var (
	secretType = reflect.TypeFor[Secret]()
	blobType   = reflect.TypeFor[Blob]()
	timeType   = reflect.TypeFor[Timestamp]()
)

func memberOf(t reflect.Type, f reflect.StructField) member {
	m := member{index: f.Index, name: lowerCamel(wireName(f))}
	switch f.Type {
	case secretType:
		m.display = displayNothing
	case blobType:
		m.display = displayNull
	}
	base := f.Type
	for base.Kind() == reflect.Pointer || base.Kind() == reflect.Slice {
		base = base.Elem()
	}
	if base.Kind() == reflect.Struct && base != timeType {
		m.nested = planOf(base)
	}
	for option := range strings.SplitSeq(f.Tag.Get("kms"), ",") {
		m.apply(t, option)
	}
	if len(m.each) > 0 {
		m.eachText = "Member must satisfy constraint: [" + strings.Join(eachTexts(m.each), ", ") + "]"
	}
	return m
}

// wireName is the member's name in the JSON or XML of the API.
func wireName(f reflect.StructField) string {
	for _, key := range []string{"json", "xml"} {
		if name, _, _ := strings.Cut(f.Tag.Get(key), ","); name != "" {
			name, _, _ = strings.Cut(name, ">")
			return name
		}
	}
	return f.Name
}

func lowerCamel(name string) string {
	return string(unicode.ToLower(rune(name[0]))) + name[1:]
}

// apply adds what one option of the tag says:
//
//	required         the member must be sent
//	secret           no text shows its value
//	unless=Field     but not if that list has elements
//	len=1..64        length of a string, blob or list
//	range=1..1000    value of an integer
//	pattern=Name     one of patterns
//	enum=Name        one of enums
//	each-len, each-enum   the same for the elements of a list
func (m *member) apply(t reflect.Type, option string) {
	name, value, _ := strings.Cut(option, "=")
	switch name {
	case "":
	case "required":
		m.required = true
	case "secret":
		m.display = displayNothing
	case "unless":
		f, ok := t.FieldByName(value)
		must(ok, "no field", value)
		m.unless = f.Index
	case "len":
		m.rules = append(m.rules, boundsOf("length", lengthOf, value))
	case "range":
		m.rules = append(m.rules, boundsOf("value", valueOf, value))
	case "pattern":
		p, ok := patterns[value]
		must(ok, "no pattern", value)
		m.rules = append(m.rules, p)
	case "enum":
		m.rules = append(m.rules, membershipOf(value))
	case "each-len":
		m.each = append(m.each, boundsOf("length", lengthOf, value))
	case "each-enum":
		m.each = append(m.each, membershipOf(value))
	default:
		must(false, "no constraint", option)
	}
}

// must panics over a tag that was written wrong.
func must(ok bool, problem, what string) {
	if !ok {
		panic(fmt.Sprintf("kmsapi: constraint tag: %s %q", problem, what))
	}
}

func boundsOf(what string, measure func(reflect.Value) int64, text string) bounds {
	low, high, _ := strings.Cut(text, "..")
	least, err1 := strconv.ParseInt(low, 10, 64)
	greatest, err2 := strconv.ParseInt(high, 10, 64)
	must(err1 == nil && err2 == nil, "not a range", text)
	return bounds{
		min: least, max: greatest, measure: measure,
		tooLow:  "Member must have " + what + " greater than or equal to " + low,
		tooHigh: "Member must have " + what + " less than or equal to " + high,
	}
}

func membershipOf(name string) membership {
	e, ok := enums[name]
	must(ok, "no enum", name)
	printed := e.printed
	if printed == nil {
		printed = e.values
	}
	return membership{values: e.values, text: "Member must satisfy enum value set: [" + strings.Join(printed, ", ") + "]"}
}

// eachTexts are the texts of all constraints on a list's elements; AWS prints
// them all, whichever is broken, the upper bound of a length first.
func eachTexts(rules []rule) []string {
	var texts []string
	for _, r := range rules {
		switch r := r.(type) {
		case bounds:
			texts = append(texts, r.tooHigh, r.tooLow)
		case membership:
			texts = append(texts, r.text)
		}
	}
	return texts
}
