package hsmtest

import (
	"bytes"
	"fmt"
	"slices"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// macs makes MACs, verifies them, and offers what must not verify. The key is
// secret, so nobody outside can make them too; two keys are compared.
func (s *suite) macs(t T, of kind, a keyspec.Algorithm) {
	k, ok := s.key(t, of)
	if !ok {
		return
	}
	other := s.otherKey(t, k)
	row, _ := keyspec.LookupAlgorithm(a)
	seen := map[string]string{}
	for _, size := range slices.Concat(messageSizes, []int{63, 65, 127, 128, 129, 1000}) {
		message := pattern(size)
		for name, key := range map[string]*hsm.Key{"one key": k, "another": other} {
			mac, err := s.Token.GenerateMAC(s.ctx, client, key, a, message)
			if lacks(t, "GenerateMAC", err) {
				return
			}
			again, err := s.Token.GenerateMAC(s.ctx, client, key, a, message)
			if len(mac) != row.Hash.Size() || err != nil || !bytes.Equal(again, mac) {
				t.Errorf("GenerateMAC(%d bytes) = %x, and then %x, %v", size, mac, again, err)
			}
			if err := s.Token.VerifyMAC(s.ctx, client, key, a, message, mac); err != nil {
				t.Errorf("VerifyMAC(GenerateMAC(%d bytes)) = %v", size, err)
			}
			what := fmt.Sprintf("%d bytes, %s", size, name)
			if before, ok := seen[string(mac)]; ok && size > 0 {
				t.Errorf("the MAC of %s is that of %s", what, before)
			}
			seen[string(mac)] = what
		}
	}
	s.badMACs(t, k, other, a)
}

// badMACs offers MACs that are not those of the message.
func (s *suite) badMACs(t T, k, other *hsm.Key, a keyspec.Algorithm) {
	message := pattern(100)
	good, err := s.Token.GenerateMAC(s.ctx, client, k, a, message)
	if err != nil {
		t.Fatalf("GenerateMAC = %v", err)
	}
	texts := map[string]bool{}
	bad := func(what string, key *hsm.Key, message, mac []byte) {
		err := s.Token.VerifyMAC(s.ctx, client, key, a, message, mac)
		refused(t, "VerifyMAC of a MAC: "+what, nil, err, hsm.ErrInvalidSignature)
		if err != nil {
			texts[err.Error()] = true
		}
	}
	flipped := bytes.Clone(good)
	eachFlip(flipped, func(bit int) { bad(fmt.Sprintf("bit %d flipped", bit), k, message, flipped) })
	changed := bytes.Clone(message)
	eachFlip(changed, func(bit int) { bad(fmt.Sprintf("bit %d of the message flipped", bit), k, changed, good) })
	for name, mac := range malformed(good) {
		bad(name, k, message, mac)
	}
	for n := range good {
		bad(fmt.Sprintf("cut to %d bytes", n), k, message, good[:n])
	}
	bad("of another key", other, message, good)
	bad("of a longer message", k, append(bytes.Clone(message), 0), good)
	bad("of a shorter message", k, message[:99], good)
	if len(texts) > 1 {
		t.Errorf("VerifyMAC tells bad MACs apart: %q", texts)
	}
	if err := s.Token.VerifyMAC(s.ctx, client, k, a, message, good); err != nil {
		t.Errorf("VerifyMAC of the good MAC afterwards = %v", err)
	}
}
