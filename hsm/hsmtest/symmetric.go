package hsmtest

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"kmsgate/hsm"
)

func (s *suite) encrypt(t T, k *hsm.Key, plaintext, aad []byte) hsm.Ciphertext {
	c, err := s.Token.Encrypt(s.ctx, client, k, plaintext, aad)
	if err != nil {
		t.Fatalf("Encrypt = %v", err)
	}
	return c
}

func (s *suite) check(t T) {
	if err := s.Token.Check(s.ctx); err != nil {
		t.Errorf("Check = %v", err)
	}
}

func (s *suite) roundTrip(t T) {
	k := s.generate(t)
	for _, size := range []int{1, 2, 15, 16, 17, 32, 1000, 4095, 4096} {
		for _, aadSize := range []int{0, 1, 64, 8192} {
			plaintext, aad := pattern(size), pattern(aadSize)
			c := s.encrypt(t, k, plaintext, aad)
			if len(c.Data) != size+16 || (len(c.IV) != 12 && len(c.IV) != 16) {
				t.Errorf("Encrypt(%d bytes) = %d bytes with an IV of %d", size, len(c.Data), len(c.IV))
			}
			got, err := s.Token.Decrypt(s.ctx, client, k, c, aad)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("Decrypt(Encrypt(%d bytes, aad %d)) = %d bytes, %v", size, aadSize, len(got), err)
			}
			if !bytes.Equal(plaintext, pattern(size)) || !bytes.Equal(aad, pattern(aadSize)) {
				t.Errorf("Encrypt changed its input")
			}
		}
	}
}

func (s *suite) otherAdditionalData(t T) {
	k, other := s.generate(t), s.generate(t)
	c := s.encrypt(t, k, []byte("secret"), []byte("context"))
	for _, aad := range []string{"", "contex", "context ", "Context"} {
		got, err := s.Token.Decrypt(s.ctx, client, k, c, []byte(aad))
		refused(t, fmt.Sprintf("Decrypt with aad %q", aad), got, err, hsm.ErrInvalidCiphertext)
	}
	got, err := s.Token.Decrypt(s.ctx, client, other, c, []byte("context"))
	refused(t, "Decrypt under another key", got, err, hsm.ErrInvalidCiphertext)
}

func (s *suite) flippedCiphertext(t T) {
	k := s.generate(t)
	c := s.encrypt(t, k, pattern(32), []byte("aad"))
	for name, part := range map[string][]byte{"IV": c.IV, "data": c.Data} {
		eachFlip(part, func(bit int) {
			got, err := s.Token.Decrypt(s.ctx, client, k, c, []byte("aad"))
			refused(t, fmt.Sprintf("Decrypt with bit %d of %s flipped", bit, name), got, err, hsm.ErrInvalidCiphertext)
		})
	}
	if _, err := s.Token.Decrypt(s.ctx, client, k, c, []byte("aad")); err != nil {
		t.Errorf("Decrypt of the unchanged ciphertext = %v", err)
	}
}

func (s *suite) malformedCiphertext(t T) {
	k := s.generate(t)
	good := s.encrypt(t, k, pattern(20), nil)
	for name, c := range map[string]hsm.Ciphertext{
		"nothing":          {},
		"no IV":            {Data: good.Data},
		"no data":          {IV: good.IV},
		"empty IV":         {IV: []byte{}, Data: good.Data},
		"IV of 11":         {IV: make([]byte, 11), Data: good.Data},
		"IV of 13":         {IV: make([]byte, 13), Data: good.Data},
		"IV of 17":         {IV: make([]byte, 17), Data: good.Data},
		"IV of zeros":      {IV: make([]byte, 12), Data: good.Data},
		"long IV of zeros": {IV: make([]byte, 16), Data: good.Data},
		"data of 15":       {IV: good.IV, Data: good.Data[:15]},
		"only a tag":       {IV: good.IV, Data: good.Data[20:]},
		"cut":              {IV: good.IV, Data: good.Data[:len(good.Data)-1]},
		"longer":           {IV: good.IV, Data: append(bytes.Clone(good.Data), 0)},
		"huge":             {IV: good.IV, Data: make([]byte, 1<<20)},
	} {
		got, err := s.Token.Decrypt(s.ctx, client, k, c, nil)
		refused(t, "Decrypt of "+name, got, err, hsm.ErrInvalidCiphertext)
	}
}

func (s *suite) freshIVs(t T) {
	k := s.generate(t)
	seen := map[string]bool{}
	for range 2000 {
		iv := string(s.encrypt(t, k, []byte("x"), nil).IV)
		if seen[iv] {
			t.Fatalf("IV %x was used twice", iv)
		}
		seen[iv] = true
	}
}

func (s *suite) random(t T) {
	seen := map[string]bool{}
	for _, n := range []int{1, 16, 32, 1000, 1024} {
		b, err := s.Token.Random(s.ctx, client, n)
		if err != nil || len(b) != n {
			t.Errorf("Random(%d) = %d bytes, %v", n, len(b), err)
			continue
		}
		if n >= 16 && seen[string(b[:16])] {
			t.Errorf("Random repeats itself")
		}
		if n >= 16 {
			seen[string(b[:16])] = true
		}
	}
	for _, n := range []int{-1, 0, 1025, 1 << 30} {
		b, err := s.Token.Random(s.ctx, client, n)
		refused(t, fmt.Sprintf("Random(%d)", n), b, err, hsm.ErrUnsupported)
	}
}

func (s *suite) endedContext(t T) {
	k := s.generate(t)
	cancelled, cancel := context.WithCancel(s.ctx)
	cancel()
	late, cancel := context.WithDeadline(s.ctx, time.Unix(1, 0))
	defer cancel()
	for name, ctx := range map[string]context.Context{"cancelled": cancelled, "late": late} {
		c, err := s.Token.Encrypt(ctx, client, k, []byte("x"), nil)
		refused(t, name+" Encrypt", c.Data, err, hsm.ErrDeadline)
		b, err := s.Token.Random(ctx, client, 8)
		refused(t, name+" Random", b, err, hsm.ErrDeadline)
		_, err = s.Token.Generate(ctx, client, s.identity(symmetric))
		refused(t, name+" Generate", nil, err, hsm.ErrDeadline)
	}
	s.encrypt(t, k, []byte("x"), nil)
}
