package pkcs11

import (
	"bytes"
	"testing"
)

func TestEngineEncryptsAndDecrypts(t *testing.T) {
	e := openWithKeys(t, nil)
	k := generate(t, e, "k1")
	c, err := e.Encrypt(t.Context(), client, k, []byte("hello"), []byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := e.Decrypt(t.Context(), client, k, c, []byte("aad"))
	if err != nil || !bytes.Equal(p, []byte("hello")) {
		t.Fatalf("Decrypt = %q, %v", p, err)
	}
	if err := e.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	sealed, err := e.Seal(t.Context(), client, testStore, []byte("s"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := e.Open(t.Context(), client, sealed, nil); err != nil || string(p) != "s" {
		t.Fatalf("Open = %q, %v", p, err)
	}
	t.Logf("%+v", e.Stats())
}
