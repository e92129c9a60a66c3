package session

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// FuzzOpen: whatever is sent as a token, Open does not panic and opens only what
// was sealed.
func FuzzOpen(f *testing.F) {
	k := newTestKey(f, 7, 1)
	sealed := sealRaw(k, fullClaims().append(nil)) // the same in every process
	f.Add(sealed, accessKey)
	f.Add(sealed[:40], accessKey)
	f.Add("", "")
	f.Add("AQAAAAc=", accessKey)
	f.Fuzz(func(t *testing.T, token, accessKeyID string) {
		c, err := open(k, token, accessKeyID, noon)
		switch {
		case err == nil && (token != sealed || accessKeyID != accessKey):
			t.Errorf("a token that nobody sealed opens to %v", c)
		case err != nil && !errors.Is(err, ErrInvalid):
			t.Errorf("Open = %v, want ErrInvalid", err)
		}
	})
}

// FuzzDecode: whatever is in a token, decode does not panic, and what it takes is
// encoded again to what decodes to the same.
func FuzzDecode(f *testing.F) {
	f.Add(fullClaims().append(nil))
	f.Add(root().append(nil))
	f.Add([]byte{claimsVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decode(b)
		if err != nil {
			return
		}
		again, err := decode(c.append(nil))
		if err != nil {
			t.Fatalf("decode of what was decoded and encoded again = %v", err)
		}
		if diff := cmp.Diff(c, again, cmp.Comparer(time.Time.Equal)); diff != "" {
			t.Errorf("encoded again (-first +second):\n%s", diff)
		}
	})
}
