package der_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// onCurves are the specs with a curve: the length of a field element and of what
// CKA_EC_POINT holds, and CKA_EC_PARAMS.
var onCurves = map[keyspec.Spec]struct {
	field, point int
	params       string
}{
	keyspec.ECCNISTP256:         {32, 65, "06082a8648ce3d030107"},
	keyspec.ECCNISTP384:         {48, 97, "06052b81040022"},
	keyspec.ECCNISTP521:         {66, 133, "06052b81040023"},
	keyspec.ECCSECGP256K1:       {32, 65, "06052b8104000a"},
	keyspec.ECCNISTEdwards25519: {0, 32, "06032b6570"},
}

func TestCurves(t *testing.T) {
	t.Parallel()
	for spec, is := range onCurves {
		if got := der.CurveParameters(spec); !bytes.Equal(got, unhex(t, is.params)) {
			t.Errorf("CurveParameters(%s) = %x, want %s", spec, got, is.params)
		}
		if got := der.FieldBytes(spec); got != is.field {
			t.Errorf("FieldBytes(%s) = %d, want %d", spec, got, is.field)
		}
	}
	for _, spec := range []keyspec.Spec{"", keyspec.SymmetricDefault, keyspec.RSA2048, keyspec.HMAC256, keyspec.SM2, keyspec.MLDSA44, keyspec.MLKEM512} {
		if params, n := der.CurveParameters(spec), der.FieldBytes(spec); params != nil || n != 0 {
			t.Errorf("%q is on a curve: %x, %d", spec, params, n)
		}
		for n := range 140 {
			if got, _, err := der.ECPointFromToken(spec, make([]byte, n)); !errors.Is(err, der.ErrPublicKey) {
				t.Errorf("ECPointFromToken(%q) of %d bytes = %x, %v", spec, n, got, err)
			}
		}
	}
}

func TestPointsAsTokensHaveThem(t *testing.T) {
	t.Parallel()
	for spec, is := range onCurves {
		// Points that begin like DER do are among them.
		for _, fill := range []byte{0, 3, 4, 0x1f, 0x20, 0x3f, 0x41, 0x81, 0xff} {
			point := bytes.Repeat([]byte{fill}, is.point)
			for _, tc := range []struct {
				value []byte
				isDER bool
			}{{point, false}, {octets(point), true}, {bits(point), true}} {
				given := bytes.Clone(tc.value)
				got, isDER, err := der.ECPointFromToken(spec, given)
				clear(given) // it is the session's buffer
				if err != nil || isDER != tc.isDER || !bytes.Equal(got, point) {
					t.Errorf("ECPointFromToken(%s, %x) = %x, %t, %v", spec, tc.value, got, isDER, err)
				}
			}
			if got := der.ECPointForToken(point, true); !bytes.Equal(got, octets(point)) {
				t.Errorf("ECPointForToken(%x, true) = %x", point, got)
			}
			if got := der.ECPointForToken(point, false); !bytes.Equal(got, point) || &got[0] == &point[0] {
				t.Errorf("ECPointForToken(%x, false) = %x, want a copy", point, got)
			}
		}
	}
}

func TestWhatIsNoPointIsRefused(t *testing.T) {
	t.Parallel()
	for spec, is := range onCurves {
		point := bytes.Repeat([]byte{4}, is.point)
		good := octets(point)
		all := map[string][]byte{
			"nothing":          nil,
			"short":            point[1:],
			"long":             append([]byte{4}, point...),
			"trailing":         append(bytes.Clone(good), 0),
			"trailing raw":     append(bytes.Clone(point), 0),
			"trailing inside":  octets(point, []byte{0}),
			"short in octets":  octets(point[1:]),
			"in a sequence":    seq(point),
			"nested":           octets(good),
			"utf-8":            value(0x0c, point),
			"long form":        slices.Concat([]byte{4, 0x82, 0, byte(is.point)}, point),
			"indefinite":       slices.Concat([]byte{0x24, 0x80}, good, []byte{0, 0}),
			"unused bits":      value(3, []byte{1}, point),
			"no unused bits":   value(3, point),
			"long form, bits":  slices.Concat([]byte{3, 0x82, 0, byte(is.point + 1), 0}, point),
			"twice":            slices.Concat(good, good),
			"length, no more":  good[:len(good)-is.point],
			"compressed":       octets(append([]byte{2}, make([]byte, is.field)...)),
			"another position": append(bytes.Clone(point), good[:len(good)-is.point]...),
		}
		for n := range good {
			if n != is.point { // the length of a raw point: what it is shows on the curve
				all[fmt.Sprintf("the first %d bytes", n)] = good[:n]
			}
		}
		for name, bad := range all {
			if got, isDER, err := der.ECPointFromToken(spec, bad); !errors.Is(err, der.ErrPublicKey) || got != nil || isDER {
				t.Errorf("%s: ECPointFromToken(%s, %x) = %x, %t, %v, want nothing and %v", name, spec, bad, got, isDER, err, der.ErrPublicKey)
			}
		}
	}
}
