package integration_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
)

// flips are senders at once; the machine has few cores.
const senders = 4

// TestEveryBitOfACiphertextCounts changes each bit of a ciphertext, and each of its
// context, with and without KeyId: all of it is one and the same refusal.
func TestEveryBitOfACiphertextCounts(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	context := map[string]string{"purpose": "flip", "b": "2"}
	plaintext := hide([]byte("thirty-two bytes are a data key."))
	made := g.mustCall(t, own, "Encrypt", m{"KeyId": key, "Plaintext": plaintext, "EncryptionContext": context})["CiphertextBlob"].(string)
	blob, err := base64.StdEncoding.DecodeString(made)
	if err != nil {
		t.Fatal(err)
	}
	type change struct {
		what    string
		blob    []byte
		context map[string]string
	}
	var changes []change
	for bit := range 8 * len(blob) {
		flipped := slices.Clone(blob)
		flipped[bit/8] ^= 1 << (bit % 8)
		changes = append(changes, change{fmt.Sprintf("bit %d of byte %d", bit%8, bit/8), flipped, context})
	}
	for n := range blob {
		changes = append(changes, change{fmt.Sprintf("the first %d bytes", n), blob[:n], context})
	}
	changes = append(changes[:len(changes)-len(blob)], changes[len(changes)-len(blob)+1:]...) // an empty one is another refusal
	changes = append(changes, change{"a byte more", append(slices.Clone(blob), 0), context}, change{"twice", append(slices.Clone(blob), blob...), context})
	for name, value := range context {
		for at := range len(name) {
			changes = append(changes, change{"context key " + name, blob, changed(context, name, flip(name, at), value)})
		}
		for at := range len(value) {
			changes = append(changes, change{"context value " + value, blob, changed(context, name, name, flip(value, at))})
		}
		changes = append(changes, change{"without " + name, blob, changed(context, name, "", "")}, change{"longer " + name, blob, changed(context, name, name, value+" ")})
	}
	jobs := make(chan change)
	var work sync.WaitGroup
	for range senders {
		work.Go(func() {
			for c := range jobs {
				for _, named := range []bool{false, true} {
					in := m{"CiphertextBlob": c.blob, "EncryptionContext": c.context}
					if named {
						in["KeyId"] = key
					}
					body, err := json.Marshal(in)
					if err != nil {
						t.Error(err)
						continue
					}
					a, err := attempt(g.sign(t, own, "Decrypt", body))
					if err != nil || a.status != 400 || string(a.body) != `{"__type":"InvalidCiphertextException"}` {
						t.Errorf("%s changed, KeyId %v: %d %s, %v; want InvalidCiphertextException alone", c.what, named, a.status, a.body, err)
					}
				}
			}
		})
	}
	for _, c := range changes {
		jobs <- c
	}
	close(jobs)
	work.Wait()
	if len(changes) < 8*100 {
		t.Errorf("%d changes, want every bit of a ciphertext of %d bytes", len(changes), len(blob))
	}
	got := g.mustCall(t, own, "Decrypt", m{"CiphertextBlob": blob, "EncryptionContext": context})["Plaintext"]
	if got != base64.StdEncoding.EncodeToString(plaintext) {
		t.Errorf("the ciphertext itself decrypts to %v", got)
	}
	// The same for a ciphertext's way to another key.
	second := g.createKey(t, own)
	for _, at := range []int{0, 1, 2, 17, 18, 49, 50, 53, 54, 55, len(blob) - 1} {
		flipped := slices.Clone(blob)
		flipped[at] ^= 0x10
		g.refused(t, own, "ReEncrypt", m{"CiphertextBlob": flipped, "SourceEncryptionContext": context, "DestinationKeyId": second}, "InvalidCiphertextException", "")
	}
}

// flip changes one byte of a text to another letter.
func flip(text string, at int) string {
	b := []byte(text)
	b[at] ^= 1
	return string(b)
}

// changed is a context with another pair in place of one; without it if the new
// name is empty.
func changed(context map[string]string, name, newName, value string) map[string]string {
	other := maps.Clone(context)
	delete(other, name)
	if newName != "" {
		other[newName] = value
	}
	return other
}
