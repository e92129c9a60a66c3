package hsmtest

import (
	"kmsgate/hsm"
)

// destroy destroys a key, and wants another to be left alone, also by a row of the
// first that somebody has changed to name it.
func (s *suite) destroy(t T, of kind) {
	k, err := s.generateKind(t, of)
	if err != nil {
		t.Lacking("%s", reason(err))
		return
	}
	other := s.otherKey(t, k)
	in, ok := s.inputsOf(t, k)
	if !ok {
		return
	}
	others, ok := s.inputsOf(t, other)
	if !ok {
		return
	}
	s.works(t, k, in)
	forged := clone(k)
	forged.Blob = other.Blob
	refused(t, "Destroy of a row with the blob of another key", nil, s.Token.Destroy(s.ctx, client, forged), hsm.ErrBinding)
	forged = clone(other)
	forged.Residency = otherResidency[other.Residency]
	refused(t, "Destroy of a row with another residency", nil, s.Token.Destroy(s.ctx, client, forged), hsm.ErrBinding)
	s.works(t, k, in)
	for range 2 { // what is destroyed already is
		if err := s.Token.Destroy(s.ctx, client, k); err != nil {
			t.Errorf("Destroy = %v", err)
		}
		if k.Residency == hsm.Resident {
			o := operationsOf(of)[0]
			got, err := o.do(s, k, in)
			refused(t, o.name+" with a key that is destroyed", got, err, hsm.ErrMissing)
			continue
		}
		s.works(t, k, in) // its blob is there still
	}
	s.works(t, other, others)
}
