package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"pgregory.net/rapid"

	"kmsgate/hsm"
)

// residentBytes is the memory of the process, from /proc/self/statm.
func residentBytes(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	must(t, err)
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize()
}

func TestForgedCiphertextsDoNotCostMemory(t *testing.T) {
	e := openWithKeys(t, nil)
	k := generate(t, e, "k")
	c, err := e.Encrypt(t.Context(), client, k, make([]byte, 4096), nil)
	must(t, err)
	c.Data[0] ^= 1
	forge := func(n int) {
		for range n {
			if _, err := e.Decrypt(t.Context(), client, k, c, nil); !errors.Is(err, hsm.ErrInvalidCiphertext) {
				t.Fatalf("Decrypt of a forged ciphertext = %v, want %v", err, hsm.ErrInvalidCiphertext)
			}
		}
	}
	forge(5000) // the heap takes its size
	before := residentBytes(t)
	forge(20000)
	if grown := residentBytes(t) - before; grown > 24<<20 {
		t.Errorf("20,000 forged ciphertexts of 4 KiB cost %d KiB", grown>>10)
	}
}

func TestKeysAreNotEvictedWhileInUse(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.MaxHandles, c.OwnerSessions, c.MaxSessions = 1, 1, 8 })
	keys := make([]*hsm.Key, 6)
	for i := range keys {
		keys[i] = generate(t, e, fmt.Sprint(i))
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 300 {
				k := keys[(worker+i)%len(keys)]
				c, err := e.Encrypt(t.Context(), client, k, []byte(k.KeyID), nil)
				if err != nil {
					t.Errorf("Encrypt = %v", err)
					return
				}
				if p, err := e.Decrypt(t.Context(), client, k, c, nil); err != nil || string(p) != k.KeyID {
					t.Errorf("Decrypt = %q, %v", p, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if s := e.Stats(); s.Handles > 1+8 {
		t.Errorf("Stats = %+v, want about one cached handle", s)
	}
	if e.Stats().Epoch != 1 {
		t.Errorf("the engine reconnected: %+v", e.Stats())
	}
	if n := sessionObjects(t, e); n > 1+8 {
		t.Errorf("%d session objects are left in the token", n)
	}
}

// TestRowsOfOneKeyMayAlternate: after a rewrap some callers still have the old
// row. Each replaces the other's handle in the cache while it is in use.
func TestRowsOfOneKeyMayAlternate(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.MaxSessions = 8 })
	k := generate(t, e, "k")
	_, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 2))
	must(t, err)
	moved, err := e.Rewrap(t.Context(), client, k, 2)
	must(t, err)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			rows := []*hsm.Key{k, &moved}
			for i := range 300 {
				if _, err := e.Encrypt(t.Context(), client, rows[(i+worker)%2], []byte("x"), nil); err != nil {
					t.Errorf("Encrypt = %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	encryptWorks(t, e, k)
	encryptWorks(t, e, &moved) // takes what k's entries have left with it
	encryptWorks(t, e, k)
	if n := sessionObjects(t, e); n > 4 {
		t.Errorf("%d session objects are left in the token", n)
	}
}

// sessionObjects counts the token's session objects.
func sessionObjects(t *testing.T, e *Engine) int {
	t.Helper()
	c := foreign(t, e)
	s, err := c.OpenSession(e.slot, pkcs11.CKF_SERIAL_SESSION)
	must(t, err)
	must(t, c.FindObjectsInit(s, []*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, false)}))
	found, _, err := c.FindObjects(s, 1000)
	must(t, err)
	must(t, c.FindObjectsFinal(s))
	must(t, c.CloseSession(s))
	return len(found)
}

func TestGenerateAndRewrapLeaveNoObjects(t *testing.T) {
	e := openWithKeys(t, nil)
	before := sessionObjects(t, e)
	k := generate(t, e, "k")
	for range 5 {
		generate(t, e, "k")
		_, err := e.Rewrap(t.Context(), client, k, 1)
		must(t, err)
		if _, err := e.Rewrap(t.Context(), client, k, 9); !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("Rewrap to generation 9 = %v, want %v", err, hsm.ErrUnavailable)
		}
	}
	if n := sessionObjects(t, e) - before; n != 0 {
		t.Errorf("%d session objects are left in the token", n)
	}
}

func TestCachedKeysCannotBeExtracted(t *testing.T) {
	e := openWithKeys(t, nil)
	encryptWorks(t, e, generate(t, e, "k"))
	c := foreign(t, e)
	s, err := c.OpenSession(e.slot, pkcs11.CKF_SERIAL_SESSION)
	must(t, err)
	for _, o := range e.handles.owners {
		for _, en := range o.share.entries {
			for want, attributes := range map[byte][]uint{
				0: {pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_TOKEN, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_SIGN, pkcs11.CKA_DERIVE},
				1: {pkcs11.CKA_SENSITIVE, pkcs11.CKA_PRIVATE, pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT},
			} {
				for _, a := range attributes {
					v, err := c.GetAttributeValue(s, pkcs11.ObjectHandle(en.handle), []*pkcs11.Attribute{attribute(a, nil)})
					must(t, err)
					if !bytes.Equal(v[0].Value, []byte{want}) {
						t.Errorf("attribute 0x%X of a cached key = %v, want %d", a, v[0].Value, want)
					}
				}
			}
		}
	}
	must(t, c.CloseSession(s))
}

func TestConcurrentCallsForOneKeyUnwrapItOnce(t *testing.T) {
	var mu sync.Mutex
	calls := map[string]int{}
	e := openWithKeys(t, func(c *Config) {
		c.Observe = func(mechanism, class string, d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			calls[mechanism+" "+class]++
		}
	})
	k := generate(t, e, "k")
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if _, err := e.Encrypt(t.Context(), client, k, []byte("x"), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if calls["unwrap ok"] != 1 || calls["gcm-encrypt ok"] != 32 {
		t.Errorf("observed %v, want one unwrap and 32 encryptions", calls)
	}
}

func TestCallerMayReuseItsBuffers(t *testing.T) {
	e := openWithKeys(t, nil)
	k := generate(t, e, "k")
	blob, plaintext := bytes.Clone(k.Blob), []byte("hello")
	c, err := e.Encrypt(t.Context(), client, k, plaintext, nil)
	must(t, err)
	clear(plaintext)
	clear(k.Blob) // the cache holds a copy
	if _, err := e.Encrypt(t.Context(), client, k, []byte("x"), nil); !errors.Is(err, hsm.ErrBinding) {
		t.Errorf("Encrypt with a cleared blob = %v, want %v", err, hsm.ErrBinding)
	}
	k.Blob = blob
	if p, err := e.Decrypt(t.Context(), client, k, c, nil); err != nil || string(p) != "hello" {
		t.Errorf("Decrypt = %q, %v", p, err)
	}
}

func TestClosedEngineRefuses(t *testing.T) {
	e := openWithKeys(t, nil)
	k := generate(t, e, "k")
	must(t, e.Close())
	if _, err := e.Encrypt(t.Context(), client, k, []byte("x"), nil); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Encrypt after Close = %v, want %v", err, hsm.ErrUnavailable)
	}
	if err := e.Check(context.Background()); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Check after Close = %v, want %v", err, hsm.ErrUnavailable)
	}
	must(t, e.Close())
}

// TestBindingCoversEveryField changes each field of a key by reflection, so
// that a field that is added later cannot be forgotten.
func TestBindingCoversEveryField(t *testing.T) {
	k := newKey("k")
	k.Residency, k.Generation, k.Blob, k.PublicKey, k.CheckValue = hsm.Wrapped, 1, []byte("blob"), []byte("pub"), []byte("check")
	original := bindingInput(&k)
	v := reflect.TypeFor[hsm.Key]()
	for i := range v.NumField() {
		c := cloneKey(&k)
		field := reflect.ValueOf(&c).Elem().Field(i)
		switch field.Kind() {
		case reflect.String:
			field.SetString(field.String() + "x")
		case reflect.Int32:
			field.SetInt(field.Int() + 1)
		case reflect.Slice:
			field.SetBytes([]byte("other"))
		case reflect.Array:
			field.Index(31).SetUint(field.Index(31).Uint() ^ 1)
		default:
			t.Fatalf("field %s has kind %s", v.Field(i).Name, field.Kind())
		}
		if same := bytes.Equal(bindingInput(&c), original); same != (v.Field(i).Name == "Binding") {
			t.Errorf("binding input with another %s: same = %v", v.Field(i).Name, same)
		}
	}
}

func TestFieldEncodingIsInjective(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lists := rapid.SliceOfN(rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 6)), 2, 2).Draw(t, "lists")
		var encoded [2]fields
		for i, list := range lists {
			for _, b := range list {
				encoded[i] = encoded[i].add(b)
			}
		}
		same := len(lists[0]) == len(lists[1])
		for i := 0; same && i < len(lists[0]); i++ {
			same = bytes.Equal(lists[0][i], lists[1][i])
		}
		if bytes.Equal(encoded[0], encoded[1]) != same {
			t.Fatalf("%v and %v encode to %x and %x", lists[0], lists[1], encoded[0], encoded[1])
		}
	})
}

func FuzzParseSealed(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 255})
	f.Add(append(sealHeader("default", 1, 12), make([]byte, 28)...))
	f.Add(append(sealHeader("", -1, 16), make([]byte, 40)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, ok := parseSealed(b)
		if !ok {
			return
		}
		again := append(append(sealHeader(v.store, v.generation, len(v.iv)), v.iv...), v.data...)
		if !bytes.Equal(again, b) {
			t.Errorf("parseSealed(%x) = %+v, which is %x", b, v, again)
		}
	})
}
