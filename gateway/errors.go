package gateway

import (
	"errors"

	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// translation says what the caller hears of an error from below.
type translation struct {
	is error
	// operation whose callers hear it; empty for all.
	operation string
	say       *kmsapi.Error
	// alarm: somebody has to look at it; counted and logged as an error.
	alarm bool
	// shed: refused for load, and counted instead of recorded.
	shed bool
}

// translations are walked with errors.Is; what is not on the list is a
// KMSInternalException. Every way in which a ciphertext can fail to open is
// one and the same answer, and so is every way in which a signature or a MAC can
// fail to verify.
var translations = []translation{
	{is: identity.ErrSecret, say: kmsapi.Internal(), alarm: true},
	{is: errSessionKey, say: kmsapi.Internal(), alarm: true},
	{is: hsm.ErrInvalidCiphertext, say: kmsapi.InvalidCiphertext()},
	{is: hsm.ErrInvalidSignature, operation: "VerifyMac", say: kmsapi.InvalidMac()},
	{is: hsm.ErrInvalidSignature, say: kmsapi.InvalidSignature()},
	{is: hsm.ErrInvalidPublicKey, say: kmsapi.InvalidPublicKey()},
	{is: hsm.ErrBinding, say: kmsapi.Internal(), alarm: true},
	{is: hsm.ErrWrongMaterial, say: kmsapi.Internal(), alarm: true},
	{is: hsm.ErrPIN, say: kmsapi.Internal(), alarm: true},
	{is: hsm.ErrUnsupported, say: kmsapi.NoMechanism("This operation")},
	{is: hsm.ErrBusy, say: kmsapi.Throttled(), shed: true},
	{is: hsm.ErrDeadline, say: kmsapi.DependencyTimeout()},
	{is: hsm.ErrUnavailable, say: kmsapi.Internal()},
	{is: metadata.ErrUnavailable, say: kmsapi.Internal()},
	{is: metadata.ErrUnknownOutcome, say: kmsapi.Internal()},
}

// errSessionKey: a sealed session key does not open. Its row was changed, or the
// token has not the key that it was sealed with.
var errSessionKey = errors.New("session key does not open")

// malformedPolicy is what the author of a policy hears of it.
func malformedPolicy(err error) error {
	if _, ok := errors.AsType[*policy.PrincipalError](err); ok {
		return kmsapi.PolicyPrincipals()
	}
	if _, ok := errors.AsType[*policy.ConditionError](err); ok {
		return kmsapi.PolicyOverlyPermissive()
	}
	return kmsapi.PolicyMalformed(err.Error())
}

// cmpError is err, or otherwise if there is none.
func cmpError(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
