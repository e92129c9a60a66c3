package pkcs11

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/softhsm"
)

// honestKeys are the keys of a test of lies, and what each has made.
type honestKeys struct {
	aes, mac, rsa, oaep *hsm.Key
	sealed              hsm.Ciphertext
	tag, asymmetric     []byte
}

func newHonestKeys(t *testing.T, e *Engine) (h honestKeys) {
	h.aes, h.mac = generate(t, e, "aes"), makeKey(t, e, keyspec.HMAC256, keyspec.GenerateVerifyMAC)
	h.rsa, h.oaep = makeKey(t, e, keyspec.RSA2048, keyspec.SignVerify), makeKey(t, e, keyspec.RSA2048, keyspec.EncryptDecrypt)
	var err error
	h.sealed, err = e.Encrypt(t.Context(), client, h.aes, []byte("plaintext"), nil)
	must(t, err)
	h.tag, err = e.GenerateMAC(t.Context(), client, h.mac, keyspec.HMACSHA256, []byte("message"))
	must(t, err)
	h.asymmetric, err = e.EncryptAsymmetric(t.Context(), client, h.oaep, keyspec.RSAESOAEPSHA256, []byte("plaintext"))
	must(t, err)
	return h
}

// right is an error where an answer is not what it has to be.
func right(got, want []byte, err error) error {
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("a wrong answer: %q, not %q", got, want)
	}
	return err
}

// TestLiesOfTheTokenAreNoAnswers has the token return CKR_OK with an output that
// is not right, once: nobody gets it, nobody is told that what is good is bad, and
// everything works afterwards.
func TestLiesOfTheTokenAreNoAnswers(t *testing.T) {
	e, shim := openWithShim(t, nil)
	h := newHonestKeys(t, e)
	decrypts := func(c hsm.Ciphertext) error {
		got, err := e.Decrypt(t.Context(), client, h.aes, c, nil)
		return right(got, []byte("plaintext"), err)
	}
	decrypt := func() error { return decrypts(h.sealed) }
	encrypt := func() error {
		c, err := e.Encrypt(t.Context(), client, h.aes, []byte("plaintext"), nil)
		if err != nil {
			return err
		}
		return decrypts(c)
	}
	sign := func() error {
		signature, err := e.Sign(t.Context(), client, h.rsa, keyspec.RSASSAPSSSHA256, keyspec.Raw, []byte("message"))
		if err != nil {
			return err
		}
		return e.Verify(t.Context(), client, h.rsa, keyspec.RSASSAPSSSHA256, keyspec.Raw, []byte("message"), signature)
	}
	mac := func() error {
		got, err := e.GenerateMAC(t.Context(), client, h.mac, keyspec.HMACSHA256, []byte("message"))
		return right(got, h.tag, err)
	}
	verifyMAC := func() error {
		return e.VerifyMAC(t.Context(), client, h.mac, keyspec.HMACSHA256, []byte("message"), h.tag)
	}
	open := func() error {
		got, err := e.DecryptAsymmetric(t.Context(), client, h.oaep, keyspec.RSAESOAEPSHA256, h.asymmetric)
		return right(got, []byte("plaintext"), err)
	}
	create := func() error {
		k, err := e.Generate(t.Context(), client, newKey("new"))
		if err != nil {
			return err
		}
		return e.Present(t.Context(), client, &k)
	}
	lengths := []softhsm.Fault{{Length: softhsm.TooShort}, {Length: softhsm.TooLong}, {Length: softhsm.Zero}, {Length: softhsm.Huge}}
	bits := []softhsm.Fault{{Corrupt: softhsm.Flipped}, {Corrupt: softhsm.Zeros}, {Corrupt: softhsm.Constant}}
	for _, c := range []struct {
		what     string
		do       func() error
		function softhsm.Function
		lies     []softhsm.Fault
	}{
		{"Encrypt", encrypt, softhsm.Encrypt, lengths},
		{"Decrypt", decrypt, softhsm.Decrypt, lengths},
		{"Sign", sign, softhsm.Sign, append(lengths, bits...)},
		{"GenerateMAC", mac, softhsm.Sign, lengths},
		{"VerifyMAC", verifyMAC, softhsm.Sign, append(lengths, bits...)},
		{"DecryptAsymmetric", open, softhsm.Decrypt, append(lengths, bits...)},
		{"Generate", create, softhsm.WrapKey, append(lengths, bits...)},
		{"Generate", create, softhsm.Encrypt, append(lengths, bits...)},
		{"Generate", create, softhsm.Sign, append(lengths, bits...)},
	} {
		for _, lie := range c.lies {
			eventually(t, c.what+" works before", func() bool { return c.do() == nil })
			lie.Times = 1
			shim.Inject(c.function, lie)
			if err := c.do(); err != nil && !errors.Is(err, hsm.ErrUnavailable) {
				t.Errorf("%s where %s lies (%+v) = %v, want the right answer or %v", c.what, c.function, lie, err, hsm.ErrUnavailable)
			}
			shim.Clear(c.function)
		}
	}
	eventually(t, "all works", func() bool {
		return errors.Join(encrypt(), decrypt(), sign(), mac(), verifyMAC(), open(), create()) == nil
	})
}
