package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// parts are what the CPU time of the server is split into, in the order of the
// table that is printed.
var parts = []string{"HTTP", "SigV4", "JSON", "policy", "token", "audit", "pipeline", "log", "GC", "scheduler", "other"}

// partOf says to which part a function belongs, by the beginning of its name;
// the first that fits counts. A sample belongs to the part of its innermost
// function that is named here.
var partOf = []struct{ prefix, part string }{
	{"runtime.gc", "GC"},
	{"runtime.bgsweep", "GC"},
	{"runtime.bgscavenge", "GC"},
	{"kmsgate/gateway/sigv4.", "SigV4"},
	{"kmsgate/gateway/awsjson.", "JSON"},
	{"kmsgate/gateway/awsquery.", "JSON"},
	{"kmsgate/gateway/kmsapi.", "JSON"},
	{"github.com/go-json-experiment/", "JSON"},
	{"kmsgate/policy.", "policy"},
	{"kmsgate/hsm", "token"},
	{"kmsgate/metadata", "audit"},
	{"github.com/jackc/", "audit"},
	{"github.com/klauspost/", "audit"},
	{"log/slog.", "log"},
	{"github.com/prometheus/", "log"},
	{"kmsgate/gateway", "pipeline"},
	{"net/http.", "HTTP"},
	{"github.com/go-chi/", "HTTP"},
	{"runtime.schedule", "scheduler"},
	{"runtime.findRunnable", "scheduler"},
	{"runtime.park_m", "scheduler"},
	{"runtime.mstart", "scheduler"},
	{"runtime.mcall", "scheduler"},
	{"runtime.sysmon", "scheduler"},
}

// sharesOf splits a CPU profile, as runtime/pprof writes it, into shares of the
// parts that add up to 1.
func sharesOf(profile []byte) (map[string]float64, error) {
	p, err := readProfile(profile)
	if err != nil {
		return nil, fmt.Errorf("read the CPU profile: %w", err)
	}
	shares, total := map[string]float64{}, 0.0
	for _, s := range p.samples {
		shares[p.part(s)] += s.weight
		total += s.weight
	}
	for part := range shares {
		shares[part] /= total
	}
	return shares, nil
}

// part is the part that a sample belongs to.
func (p *cpuProfile) part(s profileSample) string {
	for _, location := range s.stack {
		for _, function := range p.locations[location] {
			name := p.strings[p.functions[function]]
			for _, row := range partOf {
				if strings.HasPrefix(name, row.prefix) {
					return row.part
				}
			}
		}
	}
	return "other"
}

// cpuProfile is as much of a pprof profile as is needed here
// (github.com/google/pprof, proto/profile.proto).
type cpuProfile struct {
	samples   []profileSample
	locations map[uint64][]uint64 // the functions at a location, the innermost first
	functions map[uint64]uint64   // index of a function's name in strings
	strings   []string
}

type profileSample struct {
	stack  []uint64 // locations, the innermost first
	weight float64  // CPU time in nanoseconds
}

// Fields of profile.proto.
const (
	profileSampleField   = 2
	profileLocationField = 4
	profileFunctionField = 5
	profileStringField   = 6

	sampleStackField  = 1
	sampleValuesField = 2

	locationIDField   = 1
	locationLineField = 4
	lineFunctionField = 1

	functionIDField   = 1
	functionNameField = 2
)

func readProfile(compressed []byte) (*cpuProfile, error) {
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	p := &cpuProfile{locations: map[uint64][]uint64{}, functions: map[uint64]uint64{}}
	err = eachField(text, func(f protoField) error {
		switch f.number {
		case profileSampleField:
			return p.addSample(f.bytes)
		case profileLocationField:
			return p.addLocation(f.bytes)
		case profileFunctionField:
			return p.addFunction(f.bytes)
		case profileStringField:
			p.strings = append(p.strings, string(f.bytes))
		}
		return nil
	})
	return p, err
}

func (p *cpuProfile) addSample(message []byte) error {
	var s profileSample
	var values []uint64
	err := eachField(message, func(f protoField) (err error) {
		switch f.number {
		case sampleStackField:
			s.stack, err = f.appendNumbers(s.stack)
		case sampleValuesField:
			values, err = f.appendNumbers(values)
		}
		return err
	})
	if err == nil && len(values) != 2 {
		err = fmt.Errorf("a sample has %d values, want samples and nanoseconds", len(values))
	}
	if err != nil {
		return err
	}
	s.weight = float64(values[1])
	p.samples = append(p.samples, s)
	return nil
}

func (p *cpuProfile) addLocation(message []byte) error {
	var id uint64
	var functions []uint64
	err := eachField(message, func(f protoField) error {
		switch f.number {
		case locationIDField:
			id = f.number64
		case locationLineField:
			return eachField(f.bytes, func(line protoField) error {
				if line.number == lineFunctionField {
					functions = append(functions, line.number64)
				}
				return nil
			})
		}
		return nil
	})
	p.locations[id] = functions
	return err
}

func (p *cpuProfile) addFunction(message []byte) error {
	var id, name uint64
	err := eachField(message, func(f protoField) error {
		switch f.number {
		case functionIDField:
			id = f.number64
		case functionNameField:
			name = f.number64
		}
		return nil
	})
	p.functions[id] = name
	return err
}

// protoField is a field of a protocol buffer: a number or bytes.
type protoField struct {
	number   uint64
	number64 uint64
	bytes    []byte // nil for a number
}

// Wire types of protocol buffers; profiles have no others.
const (
	wireVarint = 0
	wireBytes  = 2
)

var errProto = errors.New("malformed protocol buffer")

// eachField calls fn for each field of a message.
func eachField(message []byte, fn func(protoField) error) error {
	for len(message) > 0 {
		key, n := binary.Uvarint(message)
		if n <= 0 {
			return errProto
		}
		message = message[n:]
		f := protoField{number: key >> 3}
		if f.number64, n = binary.Uvarint(message); n <= 0 {
			return errProto
		}
		message = message[n:]
		switch key & 7 {
		case wireVarint:
		case wireBytes:
			if f.number64 > uint64(len(message)) {
				return errProto
			}
			f.bytes, message = message[:f.number64:f.number64], message[f.number64:]
		default:
			return errProto
		}
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

// appendNumbers appends the number, or the packed numbers, of a field.
func (f *protoField) appendNumbers(to []uint64) ([]uint64, error) {
	if f.bytes == nil {
		return append(to, f.number64), nil
	}
	for rest := f.bytes; len(rest) > 0; {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			return nil, errProto
		}
		to, rest = append(to, v), rest[n:]
	}
	return to, nil
}
