package pqtoken

import "slices"

// Mechanisms, PKCS#11 v3.2.
const (
	ckmMLKEMKeyPairGen = 0xF
	ckmMLKEM           = 0x17
	ckmMLDSAKeyPairGen = 0x1C
	ckmMLDSA           = 0x1D

	ckmMLDSAExternalMu = 0x403C // as numbered for v3.3
)

// Flags of CK_MECHANISM_INFO.
const (
	ckfSign            = 0x800
	ckfVerify          = 0x2000
	ckfGenerateKeyPair = 0x10000
	ckfEncapsulate     = 0x10000000
	ckfDecapsulate     = 0x20000000
)

// mechanismRow is a mechanism and its CK_MECHANISM_INFO.
type mechanismRow struct {
	kind, keyType      uint64
	minBytes, maxBytes uint64 // of public keys
	flags              uint64
	takesContext       bool // its parameter is a CK_SIGN_ADDITIONAL_CONTEXT
}

var mechanismRows = []mechanismRow{
	{ckmMLDSAKeyPairGen, ckkMLDSA, 1312, 2592, ckfGenerateKeyPair, false},
	{ckmMLDSA, ckkMLDSA, 1312, 2592, ckfSign | ckfVerify, true},
	{ckmMLDSAExternalMu, ckkMLDSA, 1312, 2592, ckfSign | ckfVerify, true},
	{ckmMLKEMKeyPairGen, ckkMLKEM, 800, 1568, ckfGenerateKeyPair, false},
	{ckmMLKEM, ckkMLKEM, 800, 1568, ckfEncapsulate | ckfDecapsulate, false},
}

// mechanisms are those of this token.
func (s *store) mechanisms() []mechanismRow {
	return slices.DeleteFunc(slices.Clone(mechanismRows), func(m mechanismRow) bool {
		return m.kind == ckmMLDSAExternalMu && !s.config.ExternalMu
	})
}

// mechanisms is what C_GetMechanismList and C_GetMechanismInfo say of them.
func (c *client) mechanisms(caller, *request) ([]byte, error) {
	rows := c.store.mechanisms()
	reply := ulongs(uint64(len(rows)))
	for _, m := range rows {
		reply = append(reply, ulongs(m.kind, m.minBytes, m.maxBytes, m.flags)...)
	}
	return reply, nil
}

// Hedge variants and the longest context (PKCS#11 v3.2, section 6.67.2; FIPS 204).
const (
	ckhDeterministicRequired = 2
	maxContextBytes          = 255
)

// mechanismFor is the row of a mechanism, if it is for that and its parameter is good.
func (s *store) mechanismFor(m mechanism, flag uint64) (mechanismRow, error) {
	rows := s.mechanisms()
	i := slices.IndexFunc(rows, func(r mechanismRow) bool { return r.kind == m.kind && r.flags&flag != 0 })
	if i < 0 {
		return mechanismRow{}, ckrMechanismInvalid
	}
	row := rows[i]
	good := m.param == paramNone
	if row.takesContext && m.param == paramSignContext {
		good = m.hedge <= ckhDeterministicRequired && len(m.context) <= maxContextBytes
	}
	if !good {
		return mechanismRow{}, ckrMechanismParamInvalid
	}
	return row, nil
}

// use is an operation's key: its class and the usage that it must have.
type use struct {
	on   classes
	flag uint64 // of the mechanism
}

var (
	toSign        = use{private, ckfSign}
	toVerify      = use{public, ckfVerify}
	toEncapsulate = use{public, ckfEncapsulate}
	toDecapsulate = use{private, ckfDecapsulate}
)

// key is the object of a handle, if it may be used so.
func (c *client) key(from caller, m mechanism, handle uint64, u use) (*object, error) {
	row, err := c.store.mechanismFor(m, u.flag)
	if err != nil {
		return nil, err
	}
	o, ok := c.object(from, handle)
	switch {
	case !ok:
		return nil, ckrKeyHandleInvalid
	case o.set.keyType != row.keyType || o.on != u.on:
		return nil, ckrKeyTypeInconsistent
	case !o.is(usages[row.keyType][u.on]):
		return nil, ckrKeyFunctionNotPermitted
	case !o.allows(m.kind):
		return nil, ckrMechanismInvalid
	}
	return o, nil
}

// generate is C_GenerateKeyPair.
func (c *client) generate(from caller, r *request) ([]byte, error) {
	m, publicTemplate, privateTemplate := r.mechanism(), r.template(), r.template()
	if err := r.done(); err != nil {
		return nil, err
	}
	row, err := c.store.mechanismFor(m, ckfGenerateKeyPair)
	if err != nil {
		return nil, err
	}
	publicKey, err := newObject(public, row.keyType, publicTemplate, generated)
	if err != nil {
		return nil, err
	}
	privateKey, err := newObject(private, row.keyType, privateTemplate, generated)
	if err != nil {
		return nil, err
	}
	p, err := lookupSet(row.keyType, publicKey)
	if err != nil {
		return nil, err
	}
	seed := p.newSeed()
	encoded, _, err := p.derive(seed)
	if err != nil {
		return nil, err
	}
	for _, o := range []*object{publicKey, privateKey} {
		if err := o.become(p, seed, encoded); err != nil {
			return nil, err
		}
		o.remember(m.kind)
	}
	return c.add(from, publicKey, privateKey)
}

// signInit is C_SignInit; it gives the length of the signature.
func (c *client) signInit(from caller, r *request) ([]byte, error) {
	o, err := c.key(from, r.mechanism(), r.ulong(), toSign)
	if err != nil {
		return nil, err
	}
	return ulongs(uint64(o.set.signatures.SignatureSize())), r.done()
}

// sign is C_Sign.
func (c *client) sign(from caller, r *request) ([]byte, error) {
	m := r.mechanism()
	o, err := c.key(from, m, r.ulong(), toSign)
	message := r.bytes()
	if err != nil {
		return nil, err
	}
	if err := r.done(); err != nil {
		return nil, err
	}
	hedged := m.param == paramNone || m.hedge != ckhDeterministicRequired
	var signature []byte
	switch {
	case m.kind == ckmMLDSA:
		signature, err = o.set.sign(o.attributes[ckaSeed], message, m.context, hedged)
	case len(message) != muBytes:
		err = ckrDataLenRange
	default:
		signature, err = signMu(o.set.mu.signer, o.attributes[ckaSeed], message, hedged)
	}
	return withBytes(nil, signature), err
}

// verifyInit is C_VerifyInit.
func (c *client) verifyInit(from caller, r *request) ([]byte, error) {
	if _, err := c.key(from, r.mechanism(), r.ulong(), toVerify); err != nil {
		return nil, err
	}
	return nil, r.done()
}

// verify is C_Verify.
func (c *client) verify(from caller, r *request) ([]byte, error) {
	m := r.mechanism()
	o, err := c.key(from, m, r.ulong(), toVerify)
	message, signature := r.bytes(), r.bytes()
	if err != nil {
		return nil, err
	}
	if err := r.done(); err != nil {
		return nil, err
	}
	if len(signature) != o.set.signatures.SignatureSize() {
		return nil, ckrSignatureLenRange
	}
	valid := false
	switch {
	case m.kind == ckmMLDSA:
		valid, err = o.set.verify(o.attributes[ckaValue], message, m.context, signature)
	case len(message) != muBytes:
		err = ckrDataLenRange
	default:
		valid = o.set.mu.verifyMu(o.attributes[ckaValue], message, signature)
	}
	if err == nil && !valid {
		err = ckrSignatureInvalid
	}
	return nil, err
}
