package pkcs11

import (
	"crypto"
	"fmt"
	"slices"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// findings are what the engine decides by: the profile, and what is looked up
// in it. They are made when the token first comes up, and not changed after.
type findings struct {
	profile Profile
	strict  bool

	ways map[wayID]AlgorithmProfile
	keys map[keyID]KeyProfile
	// wrapped says which specs and usages each wrap mechanism brought back.
	wrapped map[uint]map[keyID]bool

	pointDER          bool // CKA_EC_POINT of public keys that are created
	derivesDER        bool // the peer's point of CKM_ECDH1_DERIVE
	unwrapNeedsParams bool // CKA_EC_PARAMS in templates of C_UnwrapKey
	copies            bool // C_CopyObject makes a token object of a session object

	importing  map[keyspec.WrappingAlgorithm]ImportProfile
	importWrap uint // mechanism of the material in the hybrid algorithms; zero: none

	transport transportWays

	// What the token says of data that is not good.
	badSignature, badOAEP, badPeer, badWrapped, badParcel []returnCode
}

type wayID struct {
	spec      keyspec.Spec
	algorithm keyspec.Algorithm
}

type keyID struct {
	spec  keyspec.Spec
	usage keyspec.Usage
}

func newFindings(strict bool) *findings {
	return &findings{
		strict: strict, ways: map[wayID]AlgorithmProfile{}, keys: map[keyID]KeyProfile{}, wrapped: map[uint]map[keyID]bool{},
		importing: map[keyspec.WrappingAlgorithm]ImportProfile{},
		pointDER:  true,
	}
}

// Profile is what the token was found to do.
func (e *Engine) Profile() Profile { return e.findings.profile }

// specs are the specs of which keys can be made.
func (f *findings) specs() (specs []keyspec.Spec) {
	for _, k := range f.profile.Keys {
		if k.Residency != Nowhere && !slices.Contains(specs, k.Spec) {
			specs = append(specs, k.Spec)
		}
	}
	return specs
}

// makes is nil if keys of the spec and usage can be made and used.
func (f *findings) makes(spec keyspec.Spec, usage keyspec.Usage) error {
	if usage == keyspec.Transport && !f.transport.works() {
		return fmt.Errorf("%w: keys on their way from another token: %s", hsm.ErrUnsupported, f.profile.Transport.Problem)
	}
	usage = likeUsage(usage)
	k, ok := f.keys[keyID{spec, usage}]
	if !ok || k.Residency == Nowhere {
		return fmt.Errorf("%w: %s keys for %s: %s", hsm.ErrUnsupported, spec, usage, k.Problem)
	}
	row, _ := keyspec.Lookup(spec)
	if f.strict && !slices.ContainsFunc(row.Algorithms[usage], func(a keyspec.Algorithm) bool {
		return f.ways[wayID{spec, a}].Private == InToken
	}) {
		return fmt.Errorf("%w: %s keys for %s are used outside the token in part, and the token's configuration is strict", hsm.ErrUnsupported, spec, usage)
	}
	return nil
}

// wraps tells whether a wrap mechanism brings keys of this kind back. One that no
// domain key had at the start is given the benefit of the doubt: it refuses what
// it cannot wrap.
func (f *findings) wraps(mechanism uint, spec keyspec.Spec, usage keyspec.Usage) bool {
	kinds, explored := f.wrapped[mechanism]
	return !explored || kinds[keyID{spec, likeUsage(usage)}]
}

// likeUsage is the usage whose findings a usage shares: pairs that others wrap to are
// the same keys as those that decrypt, with other permissions.
func likeUsage(usage keyspec.Usage) keyspec.Usage {
	if wrapsTo(usage) {
		return keyspec.EncryptDecrypt
	}
	return usage
}

// wrapsTo tells the usages of pairs that others wrap to; no KMS key has them.
func wrapsTo(usage keyspec.Usage) bool {
	return usage == keyspec.ImportWrapping || usage == keyspec.Transport
}

// way is how an algorithm's private or public step is done with a key.
// ErrUnsupported if it is not, for one reason or another.
func (f *findings) way(k *hsm.Key, usage keyspec.Usage, a keyspec.Algorithm, part keyPart, as keyspec.MessageType) (string, error) {
	p, ok := f.ways[wayID{k.Spec, a}]
	if k.Usage != usage || !ok {
		return Nowhere, fmt.Errorf("%w: %s with a key of %s for %s", hsm.ErrUnsupported, a, k.Spec, k.Usage)
	}
	way := p.Private
	if part == publicPart {
		way = p.Public
	}
	switch {
	case way == "" || way == Nowhere:
		return Nowhere, fmt.Errorf("%w: %s with keys of %s: %s", hsm.ErrUnsupported, a, k.Spec, p.Problem)
	case as != "" && !slices.Contains(p.Messages, as):
		return Nowhere, fmt.Errorf("%w: %s of messages of type %s", hsm.ErrUnsupported, a, as)
	case f.strict && way != InToken:
		return Nowhere, fmt.Errorf("%w: %s with keys of %s is not done wholly in the token, and the token's configuration is strict", hsm.ErrUnsupported, a, k.Spec)
	}
	return way, nil
}

// usesPublic tells whether anything is done in the token with public keys of
// the spec and usage.
func (f *findings) usesPublic(spec keyspec.Spec, usage keyspec.Usage) bool {
	row, _ := keyspec.Lookup(spec)
	return slices.ContainsFunc(row.Algorithms[usage], func(a keyspec.Algorithm) bool {
		return f.ways[wayID{spec, a}].Public == InToken
	})
}

// anySigning is an algorithm that the token signs with, for keys to prove themselves.
func (f *findings) anySigning(spec keyspec.Spec) (keyspec.Algorithm, keyspec.MessageType, error) {
	row, _ := keyspec.Lookup(spec)
	for _, a := range row.Algorithms[keyspec.SignVerify] {
		if p := f.ways[wayID{spec, a}]; p.Private == InToken && len(p.Messages) > 0 {
			return a, p.Messages[0], nil
		}
	}
	return "", "", fmt.Errorf("%w: signatures of %s", hsm.ErrUnsupported, spec)
}

// anyOAEP is a way to decrypt, for keys to prove themselves.
func (f *findings) anyOAEP(spec keyspec.Spec) (way string, h crypto.Hash, err error) {
	row, _ := keyspec.Lookup(spec)
	for _, a := range row.Algorithms[keyspec.EncryptDecrypt] {
		if p := f.ways[wayID{spec, a}]; p.Private == InToken || p.Private == RawInToken {
			algorithm, _ := keyspec.LookupAlgorithm(a)
			return p.Private, algorithm.Hash, nil
		}
	}
	return Nowhere, 0, fmt.Errorf("%w: decryption with %s", hsm.ErrUnsupported, spec)
}

// usageOf is the usage that an algorithm belongs to.
func usageOf(a keyspec.Algorithm) keyspec.Usage {
	row, _ := keyspec.LookupAlgorithm(a)
	return row.Usage
}
