package hsmtest

import (
	"bytes"
	"fmt"

	"kmsgate/hsm"
)

func (s *suite) seal(t T) {
	for _, size := range []int{0, 1, 40, 4096} {
		sealed, err := s.Token.Seal(s.ctx, client, s.Store, pattern(size), []byte("aad"))
		if err != nil {
			t.Fatalf("Seal(%d bytes) = %v", size, err)
		}
		got, err := s.Token.Open(s.ctx, client, sealed, []byte("aad"))
		if err != nil || !bytes.Equal(got, pattern(size)) {
			t.Errorf("Open(Seal(%d bytes)) = %d bytes, %v", size, len(got), err)
		}
		got, err = s.Token.Open(s.ctx, client, sealed, []byte("AAD"))
		refused(t, "Open with another aad", got, err, hsm.ErrInvalidCiphertext)
	}
	got, err := s.Token.Seal(s.ctx, client, s.Store, pattern(4097), nil)
	refused(t, "Seal(4097 bytes)", got, err, hsm.ErrUnsupported)
	got, err = s.Token.Seal(s.ctx, client, "no-such-store", []byte("x"), nil)
	refused(t, "Seal for an unknown store", got, err, hsm.ErrUnavailable)
}

func (s *suite) flippedSeal(t T) {
	sealed, err := s.Token.Seal(s.ctx, client, s.Store, []byte("secret"), nil)
	if err != nil {
		t.Fatalf("Seal = %v", err)
	}
	eachFlip(sealed, func(bit int) {
		got, err := s.Token.Open(s.ctx, client, sealed, nil)
		refused(t, fmt.Sprintf("Open with bit %d flipped", bit), got, err, hsm.ErrInvalidCiphertext)
	})
	for n := range sealed {
		got, err := s.Token.Open(s.ctx, client, sealed[:n], nil)
		refused(t, fmt.Sprintf("Open of the first %d bytes", n), got, err, hsm.ErrInvalidCiphertext)
	}
	got, err := s.Token.Open(s.ctx, client, append(bytes.Clone(sealed), 0), nil)
	refused(t, "Open of a longer value", got, err, hsm.ErrInvalidCiphertext)
	relabelled := bytes.Replace(sealed, []byte(s.Store), []byte(s.OtherStore), 1)
	relabelled[1] = byte(len(s.OtherStore))
	got, err = s.Token.Open(s.ctx, client, relabelled, nil)
	refused(t, "Open with another store's name", got, err, hsm.ErrInvalidCiphertext)
}
