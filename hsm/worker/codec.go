package worker

import (
	"encoding/binary"
	"errors"
	"reflect"
	"time"
)

// The encoding of what crosses: numbers as varints, strings and lists with their
// lengths before them, one more for lists that may be nil, structs field by field.
// Both ends are the same binary, so nothing says what it is. Functions, pointers
// and interfaces other than error are no data, and stay behind.

// secret is bytes that both ends clear once they have been used.
type secret []byte

var (
	secretType = reflect.TypeFor[secret]()
	errorType  = reflect.TypeFor[error]()
	timeType   = reflect.TypeFor[time.Time]()
)

// errMalformed: the other end has sent what it cannot have meant.
var errMalformed = errors.New("worker: malformed frame")

// encoder appends values to bytes, and leaves nothing of them where it had to move.
type encoder struct{ b []byte }

// room makes place for n bytes more.
func (e *encoder) room(n int) {
	if cap(e.b)-len(e.b) >= n {
		return
	}
	moved := make([]byte, len(e.b), max(2*cap(e.b), len(e.b)+n, 512))
	copy(moved, e.b)
	clear(e.b)
	e.b = moved
}

func (e *encoder) uint(v uint64) {
	e.room(binary.MaxVarintLen64)
	e.b = binary.AppendUvarint(e.b, v)
}

func (e *encoder) int(v int64) {
	e.room(binary.MaxVarintLen64)
	e.b = binary.AppendVarint(e.b, v)
}

func (e *encoder) bytes(v []byte) {
	e.uint(uint64(len(v)))
	e.room(len(v))
	e.b = append(e.b, v...)
}

func (e *encoder) string(v string) {
	e.uint(uint64(len(v)))
	e.room(len(v))
	e.b = append(e.b, v...)
}

func (e *encoder) bool(v bool) {
	if v {
		e.uint(1)
		return
	}
	e.uint(0)
}

// value appends a value of any type that holds data.
func (e *encoder) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		e.bool(v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		e.int(v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		e.uint(v.Uint())
	case reflect.String:
		e.string(v.String())
	case reflect.Slice:
		e.slice(v)
	case reflect.Array:
		for i := range v.Len() {
			e.value(v.Index(i))
		}
	case reflect.Map:
		e.uint(uint64(v.Len()))
		for key, element := range v.Seq2() {
			e.value(key)
			e.value(element)
		}
	case reflect.Struct:
		e.fields(v)
	case reflect.Interface:
		if v.Type() == errorType {
			err, _ := v.Interface().(error)
			e.error(err)
		}
	default:
	}
}

func (e *encoder) slice(v reflect.Value) {
	if v.IsNil() {
		e.uint(0)
		return
	}
	e.uint(uint64(v.Len()) + 1)
	if v.Type().Elem().Kind() == reflect.Uint8 {
		e.room(v.Len())
		e.b = append(e.b, v.Bytes()...)
		return
	}
	for i := range v.Len() {
		e.value(v.Index(i))
	}
}

func (e *encoder) fields(v reflect.Value) {
	if v.Type() == timeType {
		at, _ := v.Interface().(time.Time)
		e.bool(at.IsZero())
		e.int(at.UnixNano())
		return
	}
	for i := range v.NumField() {
		e.value(v.Field(i))
	}
}

// decoder reads values back. Once something was malformed it reads zeros, and says
// so at its end. What it returns are copies.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() { d.bad, d.b = true, nil }

// end is errMalformed unless everything was read, and was good.
func (d *decoder) end() error {
	if d.bad || len(d.b) > 0 {
		return errMalformed
	}
	return nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bool() bool {
	v := d.uint()
	if v > 1 {
		d.fail()
	}
	return v == 1
}

// length reads how many elements follow, each of a byte at least.
func (d *decoder) length(v uint64) int {
	if v > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(v)
}

// next are the next n bytes, which are the decoder's.
func (d *decoder) next(n int) []byte {
	if n > len(d.b) {
		d.fail()
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) string() string { return string(d.next(d.length(d.uint()))) }

// value reads into a value that can be set.
func (d *decoder) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(d.bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n := d.int()
		if v.OverflowInt(n) {
			d.fail()
			return
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n := d.uint()
		if v.OverflowUint(n) {
			d.fail()
			return
		}
		v.SetUint(n)
	case reflect.String:
		v.SetString(d.string())
	case reflect.Slice:
		d.slice(v)
	case reflect.Array:
		for i := range v.Len() {
			d.value(v.Index(i))
		}
	case reflect.Map:
		d.entries(v)
	case reflect.Struct:
		d.fields(v)
	case reflect.Interface:
		if v.Type() == errorType {
			if err := d.error(); err != nil {
				v.Set(reflect.ValueOf(err))
			}
		}
	default:
	}
}

func (d *decoder) slice(v reflect.Value) {
	n := d.uint()
	if n == 0 {
		return
	}
	length := d.length(n - 1)
	if d.bad {
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), length, length))
	if v.Type().Elem().Kind() == reflect.Uint8 {
		copy(v.Bytes(), d.next(length))
		return
	}
	for i := range length {
		d.value(v.Index(i))
	}
}

func (d *decoder) entries(v reflect.Value) {
	n := d.length(d.uint())
	if n == 0 {
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), n))
	for range n {
		key, element := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		d.value(key)
		d.value(element)
		v.SetMapIndex(key, element)
	}
}

func (d *decoder) fields(v reflect.Value) {
	if v.Type() == timeType {
		zero, at := d.bool(), d.int()
		if !zero {
			v.Set(reflect.ValueOf(time.Unix(0, at)))
		}
		return
	}
	for i := range v.NumField() {
		d.value(v.Field(i))
	}
}

// wipe clears the secrets that a value is or has.
func wipe(v reflect.Value) {
	switch {
	case v.Type() == secretType:
		clear(v.Bytes())
	case v.Kind() == reflect.Struct && v.Type() != timeType:
		for i := range v.NumField() {
			wipe(v.Field(i))
		}
	}
}
