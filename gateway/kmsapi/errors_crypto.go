package kmsapi

import (
	"strconv"

	"kmsgate/hsm/keyspec"
)

// Signatures, MACs and public keys.

// InvalidSignature is the one answer to a signature that does not verify,
// whatever the reason. It has no message.
func InvalidSignature() *Error { return &Error{Code: KMSInvalidSignatureException} }

// InvalidMac is the one answer to a MAC that does not verify, whatever the
// reason. It has no message.
func InvalidMac() *Error { return &Error{Code: KMSInvalidMacException} }

// InvalidPublicKey refuses a peer's public key that is not well encoded or not
// of the key's curve. It has no message.
func InvalidPublicKey() *Error { return &Error{Code: ValidationException} }

// NoPublicKey refuses to show the public key of a key that is no pair. It has
// no message.
func NoPublicKey() *Error { return &Error{Code: UnsupportedOperationException} }

// MessageTypeOfOtherSpec refuses a message type that no algorithm of the key's
// spec takes.
func MessageTypeOfOtherSpec(m keyspec.MessageType, s keyspec.Spec) *Error {
	return invalid("Message type " + string(m) + " is incompatible with key spec " + string(s) + ".")
}

// MessageTypeOfOtherAlgorithm refuses a message type that another algorithm of
// the key's spec takes.
func MessageTypeOfOtherAlgorithm(m keyspec.MessageType, a keyspec.Algorithm) *Error {
	return invalid("Message type " + string(m) + " is incompatible with algorithm " + string(a) + ".")
}

// DigestLength refuses a digest that the algorithm's hash cannot have made.
func DigestLength(a keyspec.Algorithm) *Error {
	return invalid("Digest is invalid length for algorithm " + string(a) + ".")
}

// Encryption with key pairs.

// PlaintextTooLarge refuses a plaintext over the limit, in bytes, of the
// algorithm with that size of key.
func PlaintextTooLarge(a keyspec.Algorithm, s keyspec.Spec, limit int) *Error {
	return invalid("Algorithm " + string(a) + " and key spec " + string(s) + " cannot encrypt data larger than " + strconv.Itoa(limit) + " bytes.")
}

// EncryptionContextOfKeyPair refuses an encryption context with a key pair,
// whose ciphertexts have no room for it.
func EncryptionContextOfKeyPair() *Error {
	return invalid("EncryptionContext can be specified only with a symmetric encryption key.")
}

// What is not done here.

// RecipientUnsupported refuses a Recipient: no attestation root is known here.
func RecipientUnsupported() *Error {
	return &Error{UnsupportedOperationException, "Recipient is not supported: attestation documents are not verified here."}
}

// KeyPairSpecNotServed refuses a spec of which no data key pairs are made here.
func KeyPairSpecNotServed(s keyspec.Spec) *Error {
	return &Error{UnsupportedOperationException, "KeyPairSpec " + string(s) + " is not supported in this Region"}
}

// NoMechanism refuses what the token behind a key store cannot do; what names
// it, for example "KeySpec ML_DSA_44".
func NoMechanism(what string) *Error {
	return &Error{
		UnsupportedOperationException,
		what + " is not supported by this key store: its HSM has no mechanism for it. kmsgate hsm probe shows what it can do.",
	}
}
