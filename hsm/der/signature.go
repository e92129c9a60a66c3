package der

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"

	"kmsgate/hsm/keyspec"
)

// ECDSAToDER makes a token's signature, r and s one behind the other in equal
// length, a SEQUENCE of two INTEGERs (RFC 3279, section 2.2.3). [ErrSignature]
// if it is no signature on the spec's curve.
func ECDSAToDER(spec keyspec.Spec, rs []byte) ([]byte, error) {
	c, ok := curveOf(spec)
	if !ok || len(rs)%2 != 0 || len(rs) > 2*c.bytes {
		return nil, ErrSignature
	}
	r, s := rs[:len(rs)/2], rs[len(rs)/2:]
	if !c.isScalar(new(big.Int).SetBytes(r)) || !c.isScalar(new(big.Int).SetBytes(s)) {
		return nil, ErrSignature
	}
	return tlv(tagSequence, integer(r), integer(s)), nil
}

// ECDSAFromDER reads a SEQUENCE of two INTEGERs and returns r and s in the full
// width of the spec's curve, as tokens want them. [ErrSignature] if it is not
// in DER, is followed by anything, or r or s is not from 1 to the order less 1.
func ECDSAFromDER(spec keyspec.Spec, signature []byte) (rs []byte, err error) {
	c, ok := curveOf(spec)
	if !ok || len(signature) > 2*c.bytes+16 {
		return nil, ErrSignature
	}
	var n struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(signature, &n); err != nil || len(rest) != 0 || !c.isScalar(n.R) || !c.isScalar(n.S) {
		return nil, ErrSignature
	}
	if !bytes.Equal(signature, tlv(tagSequence, integer(n.R.Bytes()), integer(n.S.Bytes()))) {
		return nil, ErrSignature
	}
	rs = make([]byte, 2*c.bytes)
	n.R.FillBytes(rs[:c.bytes])
	n.S.FillBytes(rs[c.bytes:])
	return rs, nil
}

// digestInfos are the DER of DigestInfo before the digest (RFC 8017, section
// 9.2, note 1).
var digestInfos = map[crypto.Hash]string{
	crypto.SHA256: "3031300d060960864801650304020105000420",
	crypto.SHA384: "3041300d060960864801650304020205000430",
	crypto.SHA512: "3051300d060960864801650304020305000440",
}

// DigestInfo is what RSASSA-PKCS1-v1_5 signs: the digest with its hash's name.
func DigestInfo(h crypto.Hash, digest []byte) ([]byte, error) {
	prefix, err := hex.DecodeString(digestInfos[h])
	if err != nil || len(prefix) == 0 || len(digest) != h.Size() {
		return nil, fmt.Errorf("der: no DigestInfo of %d bytes for %v", len(digest), h)
	}
	return append(prefix, digest...), nil
}
