package pkcs11

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

func TestFaultyRandomBytesAreNotUsed(t *testing.T) {
	for name, corrupt := range map[string]softhsm.Corruption{"zeros": softhsm.Zeros, "one byte throughout": softhsm.Constant} {
		t.Run(name, func(t *testing.T) {
			e, shim := openWithShim(t, nil)
			k := generate(t, e, "k")
			for _, step := range []struct {
				name string
				do   func() ([]byte, error)
			}{
				{"Random of a few bytes", func() ([]byte, error) { return e.Random(t.Context(), client, 8) }},
				{"Random of many bytes", func() ([]byte, error) { return e.Random(t.Context(), client, 1024) }},
				{"Encrypt", func() ([]byte, error) {
					c, err := e.Encrypt(t.Context(), client, k, []byte("plaintext"), nil)
					return c.Data, err
				}},
			} {
				e.pool.reset(nil) // no session has IVs left
				encryptions, faults := shim.Calls(softhsm.Encrypt), e.Stats().RandomFaults
				shim.Inject(softhsm.GenerateRandom, softhsm.Fault{Corrupt: corrupt})
				out, err := step.do()
				if !errors.Is(err, hsm.ErrUnavailable) || out != nil {
					t.Errorf("%s = %x, %v, want %v", step.name, out, err, hsm.ErrUnavailable)
				}
				if e.Stats().RandomFaults == faults {
					t.Errorf("%s: the fault is not counted", step.name)
				}
				if got := shim.Calls(softhsm.Encrypt); got != encryptions {
					t.Errorf("%s: %d encryptions with faulty random bytes", step.name, got-encryptions)
				}
				shim.Clear(softhsm.GenerateRandom)
				eventually(t, "the token is back in service", func() bool { return e.Check(within(t, time.Second)) == nil })
				encryptWorks(t, e, k)
			}
		})
	}
}

func TestRepeatedBlocksAreFound(t *testing.T) {
	draw := func(n int) []byte {
		b := make([]byte, n*randomBlock)
		rand.Read(b)
		return b
	}
	twice := draw(4)
	copy(twice[3*randomBlock:], twice[:randomBlock])
	for name, c := range map[string]struct {
		drawn []byte
		want  bool
	}{
		"random":             {draw(64), false},
		"a block twice":      {twice, true},
		"zeros":              {make([]byte, randomBlock), true},
		"same byte":          {append(draw(1), bytes.Repeat([]byte{7}, randomBlock)...), true},
		"only halves repeat": {append(draw(1), bytes.Repeat([]byte{1, 2}, randomBlock/2)...), false},
	} {
		if got := repeats(c.drawn); got != c.want {
			t.Errorf("repeats(%s) = %v, want %v", name, got, c.want)
		}
	}
	var l lastBlock
	first := draw(2)
	for i, c := range []struct {
		drawn []byte
		want  bool
	}{{first, false}, {draw(3), false}, {first, false}, {first, true}, {draw(1), false}} {
		if got := l.repeated(c.drawn); got != c.want {
			t.Errorf("draw %d: repeated = %v, want %v", i, got, c.want)
		}
	}
}
