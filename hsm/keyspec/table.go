package keyspec

var (
	oaep    = []Algorithm{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"}
	rsaSign = []Algorithm{
		"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
		"RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512",
	}
	ecdh = []Algorithm{"ECDH"}
)

func rsa(s Spec, bits int) Row {
	return Row{Spec: s, Bits: bits, Algorithms: map[Usage][]Algorithm{EncryptDecrypt: oaep, SignVerify: rsaSign}}
}

func nist(s Spec, bits int, ecdsa Algorithm) Row {
	return Row{Spec: s, Bits: bits, Algorithms: map[Usage][]Algorithm{SignVerify: {ecdsa}, KeyAgreement: ecdh}}
}

func hmac(s Spec, bits int, a Algorithm) Row {
	return Row{Spec: s, Bits: bits, Algorithms: map[Usage][]Algorithm{GenerateVerifyMAC: {a}}}
}

func signs(s Spec, bits int, a ...Algorithm) Row {
	return Row{Spec: s, Bits: bits, Algorithms: map[Usage][]Algorithm{SignVerify: a}}
}

func encapsulates(s Spec, bits int) Row {
	return Row{Spec: s, Bits: bits, Algorithms: map[Usage][]Algorithm{EncapsulateDecapsulate: {"ML_KEM"}}}
}

// Specs is the table of key specs (KMS Developer Guide, "Key spec reference"),
// in the order in which AWS prints the enum in validation errors.
var Specs = []Row{
	rsa(RSA2048, 2048),
	rsa(RSA3072, 3072),
	rsa(RSA4096, 4096),
	nist(ECCNISTP256, 256, "ECDSA_SHA_256"),
	nist(ECCNISTP384, 384, "ECDSA_SHA_384"),
	nist(ECCNISTP521, 521, "ECDSA_SHA_512"),
	signs(ECCSECGP256K1, 256, "ECDSA_SHA_256"),
	signs(ECCNISTEdwards25519, 256, "ED25519_SHA_512", "ED25519_PH_SHA_512"),
	{
		Spec: SymmetricDefault, Bits: 256, Served: true,
		Algorithms: map[Usage][]Algorithm{EncryptDecrypt: {AlgorithmSymmetricDefault}},
	},
	hmac(HMAC224, 224, "HMAC_SHA_224"),
	hmac(HMAC256, 256, "HMAC_SHA_256"),
	hmac(HMAC384, 384, "HMAC_SHA_384"),
	hmac(HMAC512, 512, "HMAC_SHA_512"),
	{Spec: SM2, Bits: 256, Algorithms: map[Usage][]Algorithm{
		EncryptDecrypt: {"SM2PKE"}, SignVerify: {"SM2DSA"}, KeyAgreement: ecdh,
	}},
	signs(MLDSA44, 44, "ML_DSA_SHAKE_256"),
	signs(MLDSA65, 65, "ML_DSA_SHAKE_256"),
	signs(MLDSA87, 87, "ML_DSA_SHAKE_256"),
	encapsulates(MLKEM512, 512),
	encapsulates(MLKEM768, 768),
	encapsulates(MLKEM1024, 1024),
}
