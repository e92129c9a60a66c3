package pqtoken_test

import (
	"bufio"
	"bytes"
	"crypto/mlkem"
	"encoding/hex"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
)

// driver is a process of testdata/driver.c on a bench's token.
type driver struct {
	t     *testing.T
	input io.Writer
	lines *bufio.Scanner
}

// driverProgram compiles it once.
var driverProgram = sync.OnceValues(func() (string, error) {
	program := filepath.Join(shared, "driver")
	cc := exec.Command("cc", "-std=gnu11", "-w", "-o", program, "testdata/driver.c", "-ldl")
	if out, err := cc.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cc: %w: %s", err, out)
	}
	return program, nil
})

func newDriver(t *testing.T) *driver {
	t.Helper()
	b := newBench(t)
	program, err := driverProgram()
	b.must(err)
	cmd := exec.Command(program, b.token.Module, fmt.Sprint(b.slot), b.pin)
	input, err := cmd.StdinPipe()
	b.must(err)
	output, err := cmd.StdoutPipe()
	b.must(err)
	b.must(cmd.Start())
	t.Cleanup(func() {
		_ = input.Close() // the process ends
		if err := cmd.Wait(); err != nil {
			t.Errorf("driver: %v", err)
		}
	})
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<16)
	return &driver{t, input, lines}
}

// do runs a command and returns the words of its answer.
func (d *driver) do(format string, arguments ...any) []string {
	d.t.Helper()
	if _, err := fmt.Fprintf(d.input, format+"\n", arguments...); err != nil {
		d.t.Fatal(err)
	}
	if !d.lines.Scan() {
		d.t.Fatalf("the driver has ended: %v", d.lines.Err())
	}
	return append(strings.Fields(d.lines.Text()), "", "", "", "")
}

// refused fails the test unless the answer begins with this code.
func (d *driver) refused(what string, answer []string, code uint) {
	d.t.Helper()
	if want := fmt.Sprintf("%x", code); answer[0] != want {
		d.t.Errorf("%s = 0x%s, want 0x%s", what, answer[0], want)
	}
}

func (d *driver) bytes(word string) []byte {
	d.t.Helper()
	b, err := hex.DecodeString(word)
	if err != nil || len(b) == 0 {
		d.t.Fatalf("answer %q, want bytes", word)
	}
	return b
}

// encapsulator makes a secret and its ciphertext for an encoded key, elsewhere.
type encapsulator func(encoded []byte) (secret, ciphertext []byte, err error)

// kemSets are the parameter sets by their CKP_ number; Go has no ML-KEM-512.
var kemSets = []struct {
	set, publicBytes, ciphertextBytes int
	elsewhere                         encapsulator
}{
	{1, 800, 768, nil},
	{2, 1184, 1088, func(encoded []byte) (secret, ciphertext []byte, err error) {
		key, err := mlkem.NewEncapsulationKey768(encoded)
		if err == nil {
			secret, ciphertext = key.Encapsulate()
		}
		return secret, ciphertext, err
	}},
	{3, 1568, 1568, func(encoded []byte) (secret, ciphertext []byte, err error) {
		key, err := mlkem.NewEncapsulationKey1024(encoded)
		if err == nil {
			secret, ciphertext = key.Encapsulate()
		}
		return secret, ciphertext, err
	}},
}

func TestDecapsulationRecoversSecrets(t *testing.T) {
	d := newDriver(t)
	for _, set := range kemSets {
		pair := d.do("pair %d", set.set)
		publicKey := d.bytes(pair[1])
		if len(publicKey) != set.publicBytes {
			t.Errorf("set %d: public key of %d bytes, want %d", set.set, len(publicKey), set.publicBytes)
		}
		made := d.do("encapsulate 4096 r")
		ciphertext, secret := d.bytes(made[2]), made[3]
		if len(ciphertext) != set.ciphertextBytes || len(secret) != 64 {
			t.Errorf("set %d: ciphertext of %d bytes and secret %s, want %d and 32", set.set, len(ciphertext), secret, set.ciphertextBytes)
		}
		if got := d.do("decapsulate %x r", ciphertext); got[0] != "0" || got[1] != secret {
			t.Errorf("set %d: decapsulated %v, want %s", set.set, got, secret)
		}
		other := map[string]bool{secret: true}
		for _, bit := range []int{0, 100, 8*len(ciphertext) - 1} {
			rejected := d.do("decapsulate %x r", flipped(ciphertext, bit))
			again := d.do("decapsulate %x r", flipped(ciphertext, bit))
			if rejected[0] != "0" || len(rejected[1]) != 64 || other[rejected[1]] || rejected[1] != again[1] {
				t.Errorf("set %d: changed ciphertext gives %v and %v, want one secret of its own", set.set, rejected, again)
			}
			other[rejected[1]] = true
		}
		if set.elsewhere == nil {
			continue
		}
		wantSecret, ciphertext, err := set.elsewhere(publicKey)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.do("decapsulate %x r", ciphertext); got[1] != hex.EncodeToString(wantSecret) {
			t.Errorf("set %d: what was encapsulated elsewhere gives %v, want %x", set.set, got, wantSecret)
		}
	}
}

func TestDecapsulationRefusesOtherLengths(t *testing.T) {
	d := newDriver(t)
	for _, set := range kemSets {
		d.do("pair %d", set.set)
		for _, n := range []int{1, 32, set.ciphertextBytes - 1, set.ciphertextBytes + 1, 2000} {
			d.refused(fmt.Sprintf("set %d, %d bytes", set.set, n), d.do("decapsulate %x r", make([]byte, n)), pkcs11.CKR_WRAPPED_KEY_LEN_RANGE)
		}
		d.refused("no bytes", d.do("decapsulate - r"), pkcs11.CKR_WRAPPED_KEY_LEN_RANGE)
	}
}

func TestSecretsAreAsTheirTemplateSays(t *testing.T) {
	d := newDriver(t)
	d.do("pair 2")
	ciphertext := d.do("encapsulate 4096 r")[2]
	for letter, value := range map[string]string{"r": "", "d": "", "a": "", "l": "", "s": fmt.Sprintf("!%x", pkcs11.CKR_ATTRIBUTE_SENSITIVE)} {
		for i, got := range []string{d.do("decapsulate %s %s", ciphertext, letter)[1], d.do("encapsulate 4096 %s", letter)[3]} {
			if (value == "" && len(got) != 64) || (value != "" && got != value) {
				t.Errorf("template %s, function %d: value %q, want %q or 32 bytes", letter, i, got, value)
			}
		}
	}
	for letter, code := range map[string]uint{"w": pkcs11.CKR_TEMPLATE_INCONSISTENT, "t": pkcs11.CKR_TEMPLATE_INCOMPLETE, "p": pkcs11.CKR_TEMPLATE_INCONSISTENT} {
		d.refused("C_DecapsulateKey with template "+letter, d.do("decapsulate %s %s", ciphertext, letter), code)
		d.refused("C_EncapsulateKey with template "+letter, d.do("encapsulate 4096 %s", letter), code)
	}
}

func TestCiphertextsWantRoom(t *testing.T) {
	d := newDriver(t)
	for _, set := range kemSets {
		d.do("pair %d", set.set)
		for arguments, code := range map[string]uint{
			"null": 0, "0": pkcs11.CKR_BUFFER_TOO_SMALL, fmt.Sprint(set.ciphertextBytes - 1): pkcs11.CKR_BUFFER_TOO_SMALL, fmt.Sprint(set.ciphertextBytes): 0,
		} {
			got := d.do("encapsulate %s r", arguments)
			d.refused("C_EncapsulateKey into "+arguments+" bytes", got, code)
			if got[1] != fmt.Sprint(set.ciphertextBytes) {
				t.Errorf("C_EncapsulateKey into %s bytes says that it needs %s, want %d", arguments, got[1], set.ciphertextBytes)
			}
		}
	}
}

func TestInterfacesAreThoseOfTheStandard(t *testing.T) {
	d := newDriver(t)
	for command, want := range map[string]string{
		"standard 3 2 0": "0 3.2", "standard 2 40 0": "0 2.40", "standard 0 0 0": "0 3.2", "any 0 0 0": "0 3.2", "any 3 2 0": "0 3.2",
		"standard 3 0 0": "7", "standard 3 3 0": "7", "other 3 2 0": "7", "standard 3 2 1": "7",
	} {
		if got := strings.TrimSpace(strings.Join(d.do("interface %s", command), " ")); got != want {
			t.Errorf("C_GetInterface(%s) = %s, want %s", command, got, want)
		}
	}
	d.refused("a function that is not there", d.do("notsupported"), pkcs11.CKR_FUNCTION_NOT_SUPPORTED)
}

func TestSeedsMakeTheSameKeyElsewhere(t *testing.T) {
	b := newBench(t)
	for set, elsewhere := range map[uint]func(seed []byte) ([]byte, error){
		2: func(seed []byte) ([]byte, error) {
			key, err := mlkem.NewDecapsulationKey768(seed)
			if err != nil {
				return nil, err
			}
			return key.EncapsulationKey().Bytes(), nil
		},
		3: func(seed []byte) ([]byte, error) {
			key, err := mlkem.NewDecapsulationKey1024(seed)
			if err != nil {
				return nil, err
			}
			return key.EncapsulationKey().Bytes(), nil
		},
	} {
		publicKey, privateKey, err := b.GenerateKeyPair(b.s, mech(ckmMLKEMKeyPairGen), template(attr(ckaParameterSet, set)),
			template(attr(pkcs11.CKA_SENSITIVE, false), attr(pkcs11.CKA_EXTRACTABLE, true)))
		b.must(err)
		seed := b.value(privateKey, ckaSeed)
		if len(seed) != 64 {
			t.Errorf("set %d: seed of %d bytes, want 64", set, len(seed))
		}
		if got, err := elsewhere(seed); err != nil || !bytes.Equal(got, b.value(publicKey, pkcs11.CKA_VALUE)) {
			t.Errorf("set %d: the seed makes another public key elsewhere: %v", set, err)
		}
	}
}
