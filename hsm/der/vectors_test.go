package der_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// vector is a published key, and what OpenSSL 3.0 writes for it.
type vector struct {
	name        string
	spec        keyspec.Spec
	text        string // RSAPrivateKey (RFC 8017), ECPrivateKey (RFC 5915) or PKCS#8, in base64
	spki, pkcs8 string // SHA-256 of the SubjectPublicKeyInfo and of PKCS#8
}

// vectors are keys that everybody knows, and that protect nothing.
var vectors = []vector{
	{
		"testRSA2048 of RFC 9500, section 2.1", keyspec.RSA2048, `
MIIEowIBAAKCAQEAsPnoGUOnrpiSqt4XynxA+HRP7S+BSObI6qJ7fQAVSPtRkqsotWxQYLEYzNEx5ZSHTGypibVsJylvCfuToDTf
Mul8b/CZjP2Ob0LdpYrNH6l5hvFE89FU1nZQF15oVLOpUgA7wGiHuEVawrGfey92UE68mOyUVXGweJIVDdxqdMoPvNNUl86BU02v
lBiESxOuox+dWmuVV7vfYZ79Toh/LUK43YvJh+rhv4nKuF7iHjVjBd9sB6iDjj70HFldzOQ9r8SRI+9NirupPTkF5AKNe6kUhKJ1
luB7S27ZkvB3tSTT3P593VVJvnzOjaA1z6Cz+4+eRvcysqhrRgFlwI9TEwIDAQABAoIBAEEYiyDP29vCzx/+dS3LqnI5BjUuJhXU
nc6AWX/PCgVAO+8A+gZRgvct7PtZb0sM6P9ZcLrweomlGezIFrL0/6xQaa8bBr/ve/a8155OgcjFo6fZEw3Dz7ra5fbSiPmu4/b/
kvrg+Br1l77Jaun6uUAs1f5B9wW+vbR7tzbT/mxaUeDiBzKpe15GwcvbJtdIVMa2YErtRjc1/5B2BGVXyvlJv0SIlcIEMsHgnAFO
p1ZgQ08aDzvilLq8XVMOahAhP1O2A3X8hKdXPyrxIVWE9bS9ptTo+eF6eNl+d7htpKGEZHUxinoQpWEBTv+iOoHsVunkEJ3vjLP3
lyI/fY0NQ1ECgYEA3RBXAjgvIys2gfU3keImF8e/TprLge1I2vbWmV2j6rZCg5r/AS0upii5CvJ5/T5vfJPNgPBy8B/yRDs+6PJO
1GmnlhOkG9JAIPkv0RBZvR0PMBtbp6nTY3yo1lwamBVBfY6rc0sLTzosZh2aGoLzrHNMQFMGaauORzBFpY5lU50CgYEAzPHlu5DI
6Xgep1vr8QvCUuEesCOgJg8Yh1UqVoY/SmQh6MYAv1I9bLGwrb3WW/7kqIoDfj0aQV5buVZI2loMomtU9KY5SFIsPV+JuUpy7/+V
E01ZQM5FdY8wiYCQiVZYju9XWz5LxMNoz+gT7pwlLCsC4N+R8aoBk404aF1gum8CgYAJ7VTq7Zj4TFV7Soa/T1eEk9y8a+kdoYk3
BASpCHJ29M5R2KEA7YV9wrBklHTz8VzSTFTbKHEQ5W5csAhoL5FoqoHzFFi3Qx7MHESQb9qHyolHEMNx6QdsHUn7rlEnaTTyrXh3
ifQtD6C0yTmFXUISCW9wKApOrnyKJ9nI0HcuZQKBgQCMtoV6e9VGX4AEfpuHvAAnMYQFgeBiYTkBKltQXwozhH63uMMomUmtSG87
Sz1TmrXadjAhy8gsG6I0pWaN7QgBuFnzQ/HOkwTm+qKwAsrZt4zeXNwsH7QXHEJCFnCmqw9QzEoZTrNtHJHpNboBuVnYcoueZEJr
P8OnUG3rUjmopwKBgAqB2KYYMUqAOvYcBnEfLDmyZv9BTVNHbR2lKkMYqv5LlvDaBxVfilE02riO4p6BaAdvzXjKeRrGNEKoHNBp
OSfYCOM16NjL8hIZB1CaV3WbT5oY+jp7Mzd57d56RZOE+ERK2uz/7JX9VSsM/LbH9pJibd4e8mikDS9ntciqOH/3`,
		"8fb6bad671cfe698393c453357da61b56d757ab8c0f3fb9c87f2849e63131878",
		"01ef24fa2abb1c7c446ea4e921fa278f822ab3f8828f1c5da8791359b603910e",
	},
	{
		"testECCP256 of RFC 9500, section 2.3", keyspec.ECCNISTP256, `
MHcCAQEEIObLW92AqkWunJXowVR2Z5/+yVPBaFHnEedDk5WJxk/BoAoGCCqGSM49AwEHoUQDQgAEQiVI+I+3gv+17KN0RFLHKh5V
j71vc75eSOkyMsxFxbFsTNEMTLjVuKFxOelIgsiZJXKZNCX0FBmrfpCkKklCcg==`,
		"b2b04340cfaee616ec9c2c62d261b208e54bb197498df52e8cadede23ac0ba5e",
		"847de31f4cb51beca27fd08b31ab69b0bc50ab1495a1e5cb17bbe3dcd21eb128",
	},
	{
		"testECCP384 of RFC 9500, section 2.3", keyspec.ECCNISTP384, `
MIGkAgEBBDDiVjMo36v2gYhga5EyQoHB1YpEVkMbCdUQs1/syfMHyhgihG+iZxNxqagbrA41dJ2gBwYFK4EEACKhZANiAARbCQG4
hSMpbrkZ1Q/6GpyzdLxNQJWGKCv+yhGx2VrbtUc0r1cL+CtyKM8ia89MJd28/jsaOtOUMO/3Y+HWjS4VHZFyC3eVtY2ms0Y5YTqP
ubWo2kjGdHEX+ZGehCTzfsg=`,
		"c4c10105a0be0ed4dd3354428dc38a9bfee64da141ce16e75c94eda272f9dd3a",
		"aafcd9dcd72509f3c940767b4d0b3dc420572e1d9c4ebcc16e99c239ab2ea107",
	},
	{
		"testECCP521 of RFC 9500, section 2.3", keyspec.ECCNISTP521, `
MIHcAgEBBEIB2STcygqIf42Zdno32HTmN6Esy0d9bghmU1ZpTWi3ZV5QaWOP3ntFyFQBPcd6NbGGVbhMlmpgIg1A+R7Z9RRYAuqg
BwYFK4EEACOhgYkDgYYABAHQ/XJXqEx0f1YldcBzhdvr8vUr6lgIPbgv3RUx2KrjzIdf8C/3+i2iYNjrYtbS9dZJJ44yFzagYoy7
swMItuYY2wD2KtIExkYDWbyBiriWG/Dw/A7FquikKBc85W8A3psVfB5cgsZPVi/K3vxKTCj200LPPvYW/ILTO3KFySHyvzb92A==`,
		"acb1b8327fef995e2458fdf5e3c33b2dc0749feabd6a894cb9bda9d70ac06c24",
		"b5cbb151767cb434095735514bc870d2e264c89b4e1966d149403e6c8fe0f183",
	},
	{
		"RFC 8410, section 10.3", keyspec.ECCNISTEdwards25519, `
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC`,
		"a1e9156054e04fac899ae9f275132cdc07a5dbc4ea2c2ad3a1ffc6e0d253681f",
		"80b885d1af82668ad76d1c5a1a916b5bfc23d247e2f7f450e45b5c1024843e96",
	},
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	must(t, err)
	return b
}

// key is the vector's key as the standard library has it.
func (v *vector) key(t testing.TB) crypto.Signer {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(v.text))
	must(t, err)
	if k, err := x509.ParsePKCS1PrivateKey(b); err == nil {
		return k
	}
	if k, err := x509.ParseECPrivateKey(b); err == nil {
		return k
	}
	k, err := x509.ParsePKCS8PrivateKey(b)
	must(t, err)
	return k.(crypto.Signer)
}

// spkiOf is the SubjectPublicKeyInfo that the standard library writes.
func spkiOf(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(public)
	must(t, err)
	return b
}

// privateOf takes a private key of the standard library apart.
func privateOf(t testing.TB, key crypto.Signer) *der.Private {
	t.Helper()
	public, err := der.ParsePublic(spkiOf(t, key.Public()))
	must(t, err)
	p := &der.Private{Public: *public}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		p.D, p.P, p.Q = k.D.Bytes(), k.Primes[0].Bytes(), k.Primes[1].Bytes()
		p.DP, p.DQ, p.QInv = k.Precomputed.Dp.Bytes(), k.Precomputed.Dq.Bytes(), k.Precomputed.Qinv.Bytes()
	case *ecdsa.PrivateKey:
		p.D, err = k.Bytes()
		must(t, err)
	case ed25519.PrivateKey:
		p.Seed = k.Seed()
	}
	return p
}

// secrets are the secret members of a private key.
func secrets(p *der.Private) map[string]*[]byte {
	return map[string]*[]byte{"D": &p.D, "P": &p.P, "Q": &p.Q, "DP": &p.DP, "DQ": &p.DQ, "QInv": &p.QInv, "Seed": &p.Seed}
}
