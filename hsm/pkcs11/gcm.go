package pkcs11

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// Sizes of AES-GCM, in bytes.
const (
	ivBytes       = 12 // of IVs that we choose or CloudHSM writes
	ivBytesLong   = 16 // of IVs that Luna in FIPS mode appends
	tagBytes      = 16
	ivBatch       = 84      // IVs fetched from the token at once, in 63 whole blocks
	maxInputBytes = 1 << 16 // of a plaintext or of additional data
)

// IVMode says who makes the IV of an AES-GCM encryption. It is configured, and
// never inferred: some tokens accept a missing IV and then use a constant one.
type IVMode uint8

const (
	// IVGiven: the engine gives 12 bytes of the token's random generator.
	IVGiven IVMode = iota
	// IVWritten: the token writes 12 bytes over a zeroed IV (AWS CloudHSM).
	IVWritten
	// IVAppended: the token appends 16 bytes to its output (Luna in FIPS mode).
	IVAppended
)

// ivModeRow is how one mode is spoken to the token.
type ivModeRow struct {
	given    int // bytes of the IV buffer that is passed
	appended int // bytes of IV behind the tag
}

// ivModes is indexed by IVMode.
var ivModes = [...]ivModeRow{
	IVGiven:    {given: ivBytes},
	IVWritten:  {given: ivBytes},
	IVAppended: {appended: ivBytesLong},
}

// ivModeNames are the modes as the profile and the configuration have them.
var ivModeNames = [...]string{IVGiven: "given", IVWritten: "written", IVAppended: "appended"}

// String is the mode's name.
func (m IVMode) String() string { return ivModeNames[m] }

// encrypt returns IV and ciphertext in one slice; nothing if the IV is that of the
// encryption before. It needs no more than one
// call where the IV is the token's, else one more every ivBatch calls.
func (s *session) encrypt(key handle, plaintext, aad []byte) (ivAndData []byte, err error) {
	mode := ivModes[s.engine.cfg.IV]
	prefix := mode.given + mode.appended
	out := make([]byte, prefix+len(plaintext)+tagBytes+mode.appended)
	if s.engine.cfg.IV == IVGiven {
		iv, err := s.nextIV()
		if err != nil {
			return nil, err
		}
		copy(out, iv)
	}
	n, err := s.engine.module.lib.gcmEncrypt(s.handle, key, out[:mode.given], aad, plaintext, out[prefix:])
	if err != nil {
		return nil, err
	}
	if n != len(plaintext)+tagBytes+mode.appended || (s.engine.cfg.IV == IVWritten && allZero(out[:prefix])) {
		clear(out)
		return nil, fmt.Errorf("%w: the token does not make IVs as configured", hsm.ErrUnavailable)
	}
	end := prefix + len(plaintext) + tagBytes
	copy(out[mode.given:prefix], out[end:])
	if bytes.Equal(out[:prefix], s.lastIV) {
		clear(out)
		return nil, s.engine.failedRandom()
	}
	s.lastIV = append(s.lastIV[:0], out[:prefix]...)
	return out[:end:end], nil
}

// ivLength is the length of the IV in front of what encrypt returns.
func (m IVMode) ivLength() int { return ivModes[m].given + ivModes[m].appended }

// decrypt opens a ciphertext and tag. ErrInvalidCiphertext if it does not
// authenticate.
func (s *session) decrypt(key handle, iv, ciphertext, aad []byte) ([]byte, error) {
	out := make([]byte, len(ciphertext)+tagBytes)
	n, err := s.engine.module.lib.gcmDecrypt(s.handle, key, iv, aad, ciphertext, out)
	if call, ok := errors.AsType[*callError](err); ok && call.code == pkcs11.CKR_MECHANISM_PARAM_INVALID {
		return nil, hsm.ErrInvalidCiphertext // an IV that this token does not take, and never made
	}
	if err != nil {
		return nil, s.judge(err, s.engine.damaged, hsm.ErrInvalidCiphertext)
	}
	want := len(ciphertext) - tagBytes
	return out[:want:want], exactly("C_Decrypt", out, n, want)
}

// judge tells data that does not authenticate from a token in trouble. Many
// tokens say CKR_GENERAL_ERROR or the like for both: a code that this token
// gave for damaged data at start means the same now if the session still works.
func (s *session) judge(err error, damaged []returnCode, verdict error) error {
	call, ok := errors.AsType[*callError](err)
	if !ok {
		return err
	}
	if classOf(err, false) != classData && !slices.Contains(damaged, call.code) {
		return err
	}
	// Asked whatever the code: one verdict takes no longer than another.
	var probe [8]byte
	if e := s.engine.module.lib.random(s.handle, probe[:]); e != nil {
		return e
	}
	return verdict
}

// makeCanary encrypts the canary under a key.
func (s *session) makeCanary(key handle, aad []byte) ([]byte, error) {
	return s.encrypt(key, canary[:], aad)
}

// checkCanary proves that key is the one that made the canary.
// ErrWrongMaterial if not.
func (s *session) checkCanary(key handle, check, aad []byte) error {
	ivLen := len(check) - len(canary) - tagBytes
	if ivLen != ivBytes && ivLen != ivBytesLong {
		return hsm.ErrWrongMaterial
	}
	got, err := s.decrypt(key, check[:ivLen], check[ivLen:], aad)
	if errors.Is(err, hsm.ErrInvalidCiphertext) { // or a token in trouble: only twice is no
		got, err = s.decrypt(key, check[:ivLen], check[ivLen:], aad)
	}
	if errors.Is(err, hsm.ErrInvalidCiphertext) {
		return hsm.ErrWrongMaterial
	}
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(got, canary[:]) != 1 {
		return hsm.ErrWrongMaterial
	}
	return nil
}

func allZero(b []byte) bool {
	var any byte
	for _, x := range b {
		any |= x
	}
	return any == 0
}
