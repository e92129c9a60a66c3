package pkcs11

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// TestGenerationOfRSAKeysKeepsNobodyWaiting: while more RSA-4096 keys are being
// made than there are sessions for them, clients sign, encrypt and make other
// keys, resident ones too.
func TestGenerationOfRSAKeysKeepsNobodyWaiting(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.MaxSessions, c.QuiesceTimeout = 4, time.Minute }) // two keys are being made at the end
	signer := makeKey(t, e, keyspec.ECCNISTP256, keyspec.SignVerify)
	symmetric := makeKey(t, e, keyspec.SymmetricDefault, keyspec.EncryptDecrypt)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for ctx.Err() == nil {
				k := newKey("slow")
				k.Spec, k.Usage = keyspec.RSA4096, keyspec.SignVerify
				_, err := e.Generate(ctx, hsm.Call{Account: client.Account, Class: hsm.Generation}, k)
				if err != nil && ctx.Err() == nil && !errors.Is(err, hsm.ErrBusy) {
					t.Errorf("Generate = %v", err)
				}
			}
		})
	}
	eventually(t, "both sessions for generation are taken", func() bool {
		e.pool.mu.Lock()
		defer e.pool.mu.Unlock()
		return e.pool.busy[hsm.Generation] == 2 && e.pool.queues[hsm.Generation].length > 0
	})
	for range 200 {
		_, err := e.Sign(t.Context(), client, signer, keyspec.ECDSASHA256, keyspec.Raw, []byte("x"))
		must(t, err)
		encryptWorks(t, e, symmetric)
	}
	for _, spec := range []keyspec.Spec{keyspec.ECCNISTP256, keyspec.ECCNISTEdwards25519} {
		k := newKey("beside")
		k.Spec, k.Usage = spec, keyspec.SignVerify
		if _, err := e.Generate(t.Context(), client, k); err != nil { // as interactive work
			t.Errorf("Generate(%s) beside = %v", spec, err)
		}
	}
	must(t, e.Check(t.Context()))
	cancel()
	wg.Wait()
}
