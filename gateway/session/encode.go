package session

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"time"
)

// claimsVersion begins encoded claims, so that they may get more members.
const claimsVersion = 1

// Bits of the byte of flags.
const (
	flagChained = 1 << iota
	flagMFA

	knownFlags = flagChained | flagMFA
)

// append encodes the claims behind b: the version, the times in microseconds, the
// flags, and every other member by its length. One list follows another by its
// count; tags are sorted by key.
func (c *Claims) append(b []byte) []byte {
	b = append(b, claimsVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(c.IssuedAt.UnixMicro()))
	b = binary.BigEndian.AppendUint64(b, uint64(c.ExpiresAt.UnixMicro()))
	var flags byte
	if c.Chained {
		flags |= flagChained
	}
	if c.MFA {
		flags |= flagMFA
	}
	b = append(b, flags)
	b = appendText(b, string(c.Secret))
	for _, member := range c.texts() {
		b = appendText(b, *member)
	}
	for _, list := range c.lists() {
		b = appendList(b, *list)
	}
	tags := make([]string, 0, 2*len(c.Tags))
	for _, key := range slices.Sorted(maps.Keys(c.Tags)) {
		tags = append(tags, key, c.Tags[key])
	}
	return appendList(b, tags)
}

// texts are the members that are text, in the order in which they are encoded.
func (c *Claims) texts() []*string {
	return []*string{
		&c.AccessKeyID, &c.Account, &c.RoleName, &c.UserName, &c.PrincipalID, &c.SessionName, &c.SourceIdentity,
		&c.Provider, &c.Subject, &c.Audience,
	}
}

// lists are the members that are lists.
func (c *Claims) lists() []*[]string {
	return []*[]string{&c.TransitiveTags, &c.Policies, &c.PolicyARNs}
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendList(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendText(b, s)
	}
	return b
}

// decode reads what append made, all of it, and zeros after it.
func decode(b []byte) (*Claims, error) {
	d := decoder{rest: b}
	c := &Claims{}
	version := d.byte()
	c.IssuedAt, c.ExpiresAt = d.time(), d.time()
	flags := d.byte()
	c.Chained, c.MFA = flags&flagChained != 0, flags&flagMFA != 0
	c.Secret = slices.Clone(d.take(d.count()))
	for _, member := range c.texts() {
		*member = string(d.take(d.count()))
	}
	for _, list := range c.lists() {
		*list = d.list()
	}
	tags := d.list()
	if d.bad || !isPadding(d.rest) || version != claimsVersion || flags&^knownFlags != 0 || len(tags)%2 != 0 {
		clear(c.Secret)
		return nil, ErrInvalid
	}
	if len(tags) > 0 {
		c.Tags = make(map[string]string, len(tags)/2)
	}
	for pair := range slices.Chunk(tags, 2) {
		c.Tags[pair[0]] = pair[1]
	}
	return c, nil
}

// isPadding tells whether there are only zeros.
func isPadding(b []byte) bool {
	return len(bytes.Trim(b, "\x00")) == 0
}

// decoder reads from rest; once it is bad it gives nothing more.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.rest) {
		d.bad = true
		return nil
	}
	taken := d.rest[:n]
	d.rest = d.rest[n:]
	return taken
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) time() time.Time {
	b := d.take(8)
	if b == nil {
		return time.Time{}
	}
	return time.UnixMicro(int64(binary.BigEndian.Uint64(b))).UTC()
}

// count is a length, never more than what is left.
func (d *decoder) count() int {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 || n > uint64(len(d.rest)-size) {
		d.bad = true
		return 0
	}
	d.rest = d.rest[size:]
	return int(n)
}

func (d *decoder) list() []string {
	n := d.count()
	if d.bad || n == 0 {
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		list = append(list, string(d.take(d.count())))
	}
	return list
}
