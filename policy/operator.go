package policy

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// operator is a condition operator without prefix and suffix.
type operator struct {
	negated bool // holds if no value of the document matches
	compile func(s string, special syntax) (m matcher, problem string)
}

// matcher is one value of a condition. A request value that is not of the
// operator's type does not match.
type matcher interface {
	matches(value string, ctx Context) bool
}

// operators by name; Null is not among them.
//
// IAM User Guide, "IAM JSON policy elements: Condition operators".
var operators = map[string]operator{
	"StringEquals":              {false, compileString},
	"StringNotEquals":           {true, compileString},
	"StringEqualsIgnoreCase":    {false, compileFold},
	"StringNotEqualsIgnoreCase": {true, compileFold},
	"StringLike":                {false, compileLike},
	"StringNotLike":             {true, compileLike},
	"NumericEquals":             {false, compileNumeric(equal)},
	"NumericNotEquals":          {true, compileNumeric(equal)},
	"NumericLessThan":           {false, compileNumeric(less)},
	"NumericLessThanEquals":     {false, compileNumeric(less | equal)},
	"NumericGreaterThan":        {false, compileNumeric(greater)},
	"NumericGreaterThanEquals":  {false, compileNumeric(greater | equal)},
	"DateEquals":                {false, compileDate(equal)},
	"DateNotEquals":             {true, compileDate(equal)},
	"DateLessThan":              {false, compileDate(less)},
	"DateLessThanEquals":        {false, compileDate(less | equal)},
	"DateGreaterThan":           {false, compileDate(greater)},
	"DateGreaterThanEquals":     {false, compileDate(greater | equal)},
	"Bool":                      {false, compileBool},
	"BinaryEquals":              {false, compileBinary},
	"IpAddress":                 {false, compileIP},
	"NotIpAddress":              {true, compileIP},
	"ArnEquals":                 {false, compileARN},
	"ArnLike":                   {false, compileARN},
	"ArnNotEquals":              {true, compileARN},
	"ArnNotLike":                {true, compileARN},
}

func compileString(s string, special syntax) (matcher, string) {
	p, problem := compilePattern(s, special)
	return &p, problem
}

func compileFold(s string, special syntax) (matcher, string) {
	p, problem := compilePattern(s, special)
	p.fold = true
	return &p, problem
}

func compileLike(s string, special syntax) (matcher, string) {
	p, problem := compilePattern(s, special|wildcards)
	return &p, problem
}

func compileBool(s string, special syntax) (matcher, string) {
	p, problem := compilePattern(s, special)
	p.fold = true
	if problem == "" && !p.variables && !isBool(s) {
		problem = "must be true or false"
	}
	return &p, problem
}

func isBool(s string) bool { return strings.EqualFold(s, "true") || strings.EqualFold(s, "false") }

func compileARN(s string, special syntax) (matcher, string) {
	fields := splitARN(s, special)
	if len(fields) != arnFields {
		whole, problem := compilePattern(s, special|wildcards)
		if problem == "" && s != "*" && !whole.variables {
			problem = "must be an ARN of six fields"
		}
		return &arnPattern{whole: whole}, problem
	}
	a := &arnPattern{fields: make([]pattern, arnFields)}
	for i, f := range fields {
		p, problem := compilePattern(f, special|wildcards)
		if problem != "" {
			return nil, problem
		}
		a.fields[i] = p
	}
	return a, ""
}

// relation is a set of outcomes of a comparison.
type relation uint8

const (
	less relation = 1 << iota
	equal
	greater
)

// has tells whether the outcome of cmp.Compare is in the set.
func (r relation) has(outcome int) bool { return r&(1<<(outcome+1)) != 0 }

type numeric struct {
	relation relation
	value    float64
}

func compileNumeric(r relation) func(string, syntax) (matcher, string) {
	return func(s string, _ syntax) (matcher, string) {
		v, ok := parseNumber(s)
		if !ok {
			return nil, "must be a decimal number"
		}
		return numeric{r, v}, ""
	}
}

func (n numeric) matches(value string, _ Context) bool {
	v, ok := parseNumber(value)
	return ok && n.relation.has(cmp.Compare(v, n.value))
}

func parseNumber(s string) (float64, bool) {
	if strings.Trim(s, "+-.0123456789eE") != "" { // no hexadecimal, Inf, NaN
		return 0, false
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil
}

type date struct {
	relation relation
	value    time.Time
}

func compileDate(r relation) func(string, syntax) (matcher, string) {
	return func(s string, _ syntax) (matcher, string) {
		v, ok := parseDate(s)
		if !ok {
			return nil, "must be an ISO 8601 date or a number of seconds since 1970"
		}
		return date{r, v}, ""
	}
}

func (d date) matches(value string, _ Context) bool {
	v, ok := parseDate(value)
	return ok && d.relation.has(v.Compare(d.value))
}

// dateLayouts are those of W3C's profile of ISO 8601. time.Parse takes a
// fraction of a second where the layout has seconds.
var dateLayouts = []string{
	"2006", "2006-01", time.DateOnly,
	"2006-01-02T15:04Z07:00", "2006-01-02T15:04Z0700", time.RFC3339, "2006-01-02T15:04:05Z0700",
}

// parseDate reads a date or seconds since 1970; four digits are a year.
func parseDate(s string) (time.Time, bool) {
	for _, layout := range dateLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	const last = 253402300799 // the end of the year 9999
	seconds, ok := parseNumber(s)
	if !ok || math.Abs(seconds) > last {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(math.Round(seconds * 1000))), true
}

type binary []byte

func compileBinary(s string, _ syntax) (matcher, string) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, "must be base64"
	}
	return binary(b), ""
}

func (b binary) matches(value string, _ Context) bool {
	v, err := base64.StdEncoding.DecodeString(value)
	return err == nil && bytes.Equal(b, v)
}

type addresses netip.Prefix

func compileIP(s string, _ syntax) (matcher, string) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return addresses(netip.PrefixFrom(a, a.BitLen())), ""
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return nil, "must be an IP address or a range in CIDR notation"
	}
	return addresses(p.Masked()), ""
}

func (a addresses) matches(value string, _ Context) bool {
	v, err := netip.ParseAddr(value)
	return err == nil && netip.Prefix(a).Contains(v.Unmap())
}
