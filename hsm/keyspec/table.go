package keyspec

var (
	oaep    = []Algorithm{RSAESOAEPSHA1, RSAESOAEPSHA256}
	rsaSign = []Algorithm{
		RSASSAPKCS1V15SHA256, RSASSAPKCS1V15SHA384, RSASSAPKCS1V15SHA512,
		RSASSAPSSSHA256, RSASSAPSSSHA384, RSASSAPSSSHA512,
	}
	ecdh = []Algorithm{ECDH}
)

func rsa(s Spec, bits int) Row {
	return Row{Spec: s, Bits: bits, SlowToMake: true, Algorithms: map[Usage][]Algorithm{EncryptDecrypt: oaep, SignVerify: rsaSign}}
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
	return Row{Spec: s, Bits: bits, Algorithms: map[Usage][]Algorithm{EncapsulateDecapsulate: {MLKEM}}}
}

// Specs is the table of key specs (KMS Developer Guide, "Key spec reference"),
// in the order in which AWS prints the enum in validation errors.
var Specs = []Row{
	rsa(RSA2048, 2048),
	rsa(RSA3072, 3072),
	rsa(RSA4096, 4096),
	nist(ECCNISTP256, 256, ECDSASHA256),
	nist(ECCNISTP384, 384, ECDSASHA384),
	nist(ECCNISTP521, 521, ECDSASHA512),
	signs(ECCSECGP256K1, 256, ECDSASHA256),
	signs(ECCNISTEdwards25519, 256, Ed25519SHA512, Ed25519PHSHA512),
	{
		Spec: SymmetricDefault, Bits: 256,
		Algorithms: map[Usage][]Algorithm{EncryptDecrypt: {AlgorithmSymmetricDefault}},
	},
	hmac(HMAC224, 224, HMACSHA224),
	hmac(HMAC256, 256, HMACSHA256),
	hmac(HMAC384, 384, HMACSHA384),
	hmac(HMAC512, 512, HMACSHA512),
	{Spec: SM2, Bits: 256, Algorithms: map[Usage][]Algorithm{
		EncryptDecrypt: {SM2PKE}, SignVerify: {SM2DSA}, KeyAgreement: ecdh,
	}},
	signs(MLDSA44, 44, MLDSASHAKE256),
	signs(MLDSA65, 65, MLDSASHAKE256),
	signs(MLDSA87, 87, MLDSASHAKE256),
	encapsulates(MLKEM512, 512),
	encapsulates(MLKEM768, 768),
	encapsulates(MLKEM1024, 1024),
}
