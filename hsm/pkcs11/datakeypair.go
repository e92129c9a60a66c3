package pkcs11

import (
	"context"
	"fmt"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// pairUsage is the usage whose key type data key pairs of a spec are made as.
var pairUsage = map[keyspec.Spec]keyspec.Usage{
	keyspec.RSA2048: keyspec.SignVerify, keyspec.RSA3072: keyspec.SignVerify, keyspec.RSA4096: keyspec.SignVerify,
	keyspec.ECCNISTP256: keyspec.SignVerify, keyspec.ECCNISTP384: keyspec.SignVerify, keyspec.ECCNISTP521: keyspec.SignVerify,
	keyspec.ECCSECGP256K1: keyspec.SignVerify, keyspec.ECCNISTEdwards25519: keyspec.SignVerify,
	keyspec.MLKEM512: keyspec.EncapsulateDecapsulate, keyspec.MLKEM768: keyspec.EncapsulateDecapsulate,
	keyspec.MLKEM1024: keyspec.EncapsulateDecapsulate,
}

// privateParts are the attributes that make up a private key, with where they go.
var privateParts = map[uint][]struct {
	attribute uint
	into      func(*der.Private) *[]byte
}{
	pkcs11.CKK_RSA: {
		{pkcs11.CKA_PRIVATE_EXPONENT, func(p *der.Private) *[]byte { return &p.D }},
		{pkcs11.CKA_PRIME_1, func(p *der.Private) *[]byte { return &p.P }},
		{pkcs11.CKA_PRIME_2, func(p *der.Private) *[]byte { return &p.Q }},
		{pkcs11.CKA_EXPONENT_1, func(p *der.Private) *[]byte { return &p.DP }},
		{pkcs11.CKA_EXPONENT_2, func(p *der.Private) *[]byte { return &p.DQ }},
		{pkcs11.CKA_COEFFICIENT, func(p *der.Private) *[]byte { return &p.QInv }},
	},
	pkcs11.CKK_EC:  {{pkcs11.CKA_VALUE, func(p *der.Private) *[]byte { return &p.D }}},
	keyTypeEdwards: {{pkcs11.CKA_VALUE, func(p *der.Private) *[]byte { return &p.Seed }}},
	keyTypeMLKEM:   {{attrSeed, func(p *der.Private) *[]byte { return &p.Seed }}},
}

// GenerateDataKeyPair makes a pair in the token and takes it out. See [hsm.Token].
func (e *Engine) GenerateDataKeyPair(ctx context.Context, on hsm.Call, spec keyspec.Spec) (hsm.DataKeyPair, error) {
	if err := e.findings.givesPairs(spec); err != nil {
		return hsm.DataKeyPair{}, err
	}
	t := keyTypes[spec][pairUsage[spec]]
	published := make(chan []byte, 1)
	w := work{mechanism: "data-key-pair", slow: true, run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		p, err := s.makeReadablePair(&t, spec)
		if err != nil {
			return nil, err
		}
		defer p.Clear()
		public, err := p.Public.Encode()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
		}
		private, err := p.Encode()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
		}
		published <- public
		return private, nil
	}}
	private, err := e.do(ctx, on, nil, &w)
	if err != nil {
		return hsm.DataKeyPair{}, err
	}
	return hsm.DataKeyPair{Private: private, Public: <-published}, nil
}

// makeReadablePair makes a pair whose private key may be read, reads it and
// destroys it. What is returned is the caller's to clear.
func (s *session) makeReadablePair(t *keyType, spec keyspec.Spec) (*der.Private, error) {
	making := t.template
	making.may |= mayBeRead
	key, public, err := s.makePair(t, making, spec)
	if err != nil {
		return nil, err
	}
	p := &der.Private{Public: *public}
	err = s.readPrivate(key, t.template.keyType, p)
	s.destroyAfter(key, &err)
	if err != nil {
		p.Clear()
		return nil, err
	}
	return p, nil
}

// maxPartBytes bounds one part of a private key: RSA-4096's private exponent.
const maxPartBytes = 512

func (s *session) readPrivate(key handle, keyType uint, p *der.Private) error {
	buffer := make([]byte, maxPartBytes+2)
	defer clear(buffer)
	for _, part := range privateParts[keyType] {
		n, err := s.engine.module.lib.attribute(s.handle, key, part.attribute, buffer)
		if err != nil {
			return err
		}
		value := buffer[:n]
		if keyType == keyTypeEdwards && n == 34 { // an OCTET STRING, as in CKA_EC_POINT
			value = value[2:]
		}
		*part.into(p) = append([]byte(nil), value...)
	}
	return nil
}

// givesPairs is nil if the token gives pairs of a spec to a caller.
func (f *findings) givesPairs(spec keyspec.Spec) error {
	for _, p := range f.profile.DataKeyPairs {
		if p.Spec == spec && p.Works {
			return nil
		}
		if p.Spec == spec {
			return fmt.Errorf("%w: data key pairs of %s: %s", hsm.ErrUnsupported, spec, p.Problem)
		}
	}
	return fmt.Errorf("%w: data key pairs of %q", hsm.ErrUnsupported, spec)
}
