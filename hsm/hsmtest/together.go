package hsmtest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

func (s *suite) manyKeysAtOnce(t T) {
	keys := make([]*hsm.Key, 3*s.Handles)
	for i := range keys {
		keys[i] = s.generate(t)
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 4 * len(keys) {
				k := keys[(i*(worker+1)+worker)%len(keys)]
				want := []byte(k.KeyID)
				c, err := s.Token.Encrypt(s.ctx, client, k, want, nil)
				if err != nil {
					t.Errorf("Encrypt = %v", err)
					return
				}
				if got, err := s.Token.Decrypt(s.ctx, client, k, c, nil); err != nil || !bytes.Equal(got, want) {
					t.Errorf("Decrypt = %q, %v, want %q", got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

// task is a key with something that is done with it, and what comes out.
type task struct {
	operation
	key  *hsm.Key
	in   *inputs
	want []byte // nil for signatures, which are verified
}

// taskOperations are what keys do all at once.
var taskOperations = []string{"Decrypt", "DecryptAsymmetric", "Sign", "GenerateMAC", "DeriveSecret", "Decapsulate"}

// tasks are one for each kind of which there is a key that works.
func (s *suite) tasks(t T) (tasks []task) {
	for of, k := range s.kept {
		in, ok := s.inputsOf(t, k)
		if !ok {
			continue
		}
		for _, o := range operationsOf(of) {
			if !slices.Contains(taskOperations, o.name) {
				continue
			}
			out, err := o.do(s, k, in)
			if err != nil {
				t.Fatalf("%s with %s = %v", o.name, of, err)
			}
			one := task{o, k, in, out}
			if of.usage == keyspec.SignVerify {
				one.want = nil
			}
			tasks = append(tasks, one)
		}
	}
	return tasks
}

// manyKindsAtOnce uses keys of all kinds at the same time: no result may be that of
// another call.
func (s *suite) manyKindsAtOnce(t T) {
	const workers, rounds = 8, 4
	tasks := s.tasks(t)
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			for i := range rounds * len(tasks) {
				one := tasks[(i*(worker+1)+worker)%len(tasks)]
				if err := s.perform(one, byte(worker*rounds+i)); err != nil {
					t.Errorf("%s with %s, beside others: %v", one.name, one.key.Spec, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// perform does a task. Signatures are of messages that differ.
func (s *suite) perform(one task, number byte) error {
	in := *one.in
	if one.want == nil {
		in.message = bytes.Clone(in.message)
		in.message[0] = number
	}
	out, err := one.do(s, one.key, &in)
	switch {
	case err != nil:
		return err
	case one.want == nil:
		return s.verifyOutside(one.key, in.algorithms[one.key.Usage], in.as, in.message, out)
	case !bytes.Equal(out, one.want):
		return fmt.Errorf("%d bytes that differ from those before", len(out))
	}
	return nil
}

func (s *suite) rewrap(t T) {
	k, other := s.generate(t), s.generate(t)
	if k.Generation != 1 {
		t.Fatalf("Generation = %d before another was added, want 1", k.Generation)
	}
	c := s.encrypt(t, k, []byte("made under generation 1"), nil)
	if got, err := s.Rewrap(s.ctx, client, k, 2); err == nil {
		t.Errorf("Rewrap to a generation that is not there = %+v, want an error", got)
	}
	if err := s.AddGeneration(s.ctx); err != nil {
		t.Fatalf("AddGeneration = %v", err)
	}
	s.forgedRewraps(t, k, other)
	moved, err := s.Rewrap(s.ctx, hsm.Call{Class: hsm.Background}, k, 2)
	if err != nil {
		t.Fatalf("Rewrap = %v", err)
	}
	if moved.Generation != 2 || moved.MaterialID != k.MaterialID || bytes.Equal(moved.Binding, k.Binding) ||
		bytes.Equal(moved.Blob, k.Blob) != (k.Residency == hsm.Resident) {
		t.Errorf("Rewrap = %+v, want another binding of generation 2, and another blob unless it lives in the token", moved)
	}
	for name, key := range map[string]*hsm.Key{"old": k, "moved": &moved} {
		got, err := s.Token.Decrypt(s.ctx, client, key, c, nil)
		if err != nil || string(got) != "made under generation 1" {
			t.Errorf("Decrypt with the %s row = %q, %v", name, got, err)
		}
	}
	if fresh := s.generate(t); fresh.Generation != 2 {
		t.Errorf("Generation of a new key = %d, want 2", fresh.Generation)
	}
	forged := clone(k)
	forged.Generation = 2
	got, err := s.Token.Encrypt(s.ctx, client, forged, []byte("x"), nil)
	refused(t, "Encrypt with the old blob as generation 2", got.Data, err, hsm.ErrBinding)
	back, err := s.Rewrap(s.ctx, client, &moved, 1)
	if err != nil || back.Generation != 1 {
		t.Errorf("Rewrap back = generation %d, %v", back.Generation, err)
	}
	s.rewrapKinds(t)
}

// rewrapKinds moves one key of each kind, which is then what it was.
func (s *suite) rewrapKinds(t T) {
	for _, one := range s.tasks(t) {
		moved, err := s.Rewrap(s.ctx, hsm.Call{Class: hsm.Background}, one.key, 2)
		if err != nil {
			t.Errorf("Rewrap of %s = %v", one.key.Spec, err)
			continue
		}
		if !bytes.Equal(moved.PublicKey, one.key.PublicKey) || moved.Generation != 2 {
			t.Errorf("Rewrap of %s = %+v, want the same public key and generation 2", one.key.Spec, moved)
		}
		one.key = &moved
		if err := s.perform(one, 0); err != nil {
			t.Errorf("%s with %s after Rewrap: %v", one.name, one.key.Spec, err)
		}
	}
}

// forgedRewraps: the mover must not make an honest row of a forged one.
func (s *suite) forgedRewraps(t T, k, other *hsm.Key) {
	for name, edit := range edits {
		forged := clone(k)
		edit(s, forged, other)
		if forged.Equal(k) {
			continue
		}
		if got, err := s.Rewrap(s.ctx, client, forged, 2); !errors.Is(err, hsm.ErrBinding) || got.Blob != nil {
			t.Errorf("Rewrap with %s = %+v, %v, want %v", name, got, err, hsm.ErrBinding)
		}
	}
	forged := clone(k)
	for name, part := range map[string][]byte{"blob": forged.Blob, "binding": forged.Binding, "check value": forged.CheckValue} {
		eachFlip(part, func(bit int) {
			if bit%13 != 0 {
				return
			}
			if _, err := s.Rewrap(s.ctx, client, forged, 2); !errors.Is(err, hsm.ErrBinding) {
				t.Errorf("Rewrap with bit %d of %s flipped = %v, want %v", bit, name, err, hsm.ErrBinding)
			}
		})
	}
}
