package integration_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// TestMACs makes and verifies HMACs. Nobody outside can make them again: the keys
// do not leave the token. What can be told of them is their length, that the same
// message has the same one, and that nothing else has.
func TestMACs(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, k := range kindsOf(macs) {
		t.Run(string(k.spec), func(t *testing.T) {
			t.Parallel()
			c := g.newClient(own)
			key := g.ready(t, k.spec, macs)
			algorithm := types.MacAlgorithmSpec(k.algorithms[0])
			size := hashOfName(k.algorithms[0]).Size()
			messages := [][]byte{{0}, {0, 0}, hide([]byte("a message to be authenticated")), bytes.Repeat([]byte("z"), 4096)}
			made := make([][]byte, len(messages))
			for n, message := range messages {
				for range 2 {
					got, err := c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: &key, Message: message, MacAlgorithm: algorithm})
					if err != nil {
						t.Fatal(err)
					}
					c.wantMembers(t, "Mac", "MacAlgorithm", "KeyId")
					if *got.KeyId != key || got.MacAlgorithm != algorithm || len(got.Mac) != size {
						t.Errorf("GenerateMac: %s, %s, %d bytes; want %s, %s, %d", *got.KeyId, got.MacAlgorithm, len(got.Mac), key, algorithm, size)
					}
					if made[n] != nil && !bytes.Equal(made[n], got.Mac) {
						t.Error("the same message has two MACs")
					}
					made[n] = hide(got.Mac)
				}
			}
			for n, message := range messages {
				for other, mac := range made {
					verified, err := c.VerifyMac(t.Context(), &kms.VerifyMacInput{KeyId: &key, Message: message, Mac: mac, MacAlgorithm: algorithm})
					if n != other {
						wantError(t, err, "KMSInvalidMacException", "")
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					c.wantMembers(t, "KeyId", "MacValid", "MacAlgorithm")
					if *verified.KeyId != key || !verified.MacValid || verified.MacAlgorithm != algorithm {
						t.Errorf("VerifyMac says %s", c.last.body)
					}
				}
			}
			// Another key of the same kind knows nothing of them.
			another := g.mustCall(t, own, "CreateKey", m{"KeySpec": k.spec, "KeyUsage": macs})["KeyMetadata"].(m)["Arn"]
			g.refused(t, own, "VerifyMac", m{"KeyId": another, "Message": messages[0], "Mac": made[0], "MacAlgorithm": algorithm}, "KMSInvalidMacException", "")
		})
	}
}

func TestMACRefusals(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.ready(t, types.KeySpecHmac256, macs)
	mac := g.mustCall(t, own, "GenerateMac", m{"KeyId": key, "Message": []byte("m"), "MacAlgorithm": "HMAC_SHA_256"})["Mac"]
	symmetric := g.ready(t, types.KeySpecSymmetricDefault, encrypts)
	const failed = "1 validation error detected: Value "
	for name, tc := range map[string]struct {
		operation     string
		in            m
		code, message string
	}{
		"no message":             {"GenerateMac", m{"Message": nil}, "ValidationException", failed + "at 'message' failed to satisfy constraint: Member must not be null"},
		"empty message":          {"GenerateMac", m{"Message": ""}, "ValidationException", failed + "at 'message' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		"long message":           {"GenerateMac", m{"Message": make([]byte, 4097)}, "ValidationException", failed + "at 'message' failed to satisfy constraint: Member must have length less than or equal to 4096"},
		"no algorithm":           {"GenerateMac", m{"MacAlgorithm": nil}, "ValidationException", failed + "null at 'macAlgorithm' failed to satisfy constraint: Member must not be null"},
		"unknown algorithm":      {"VerifyMac", m{"MacAlgorithm": "INVALID"}, "ValidationException", failed + "'INVALID' at 'macAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [HMAC_SHA_384, HMAC_SHA_256, HMAC_SHA_224, HMAC_SHA_512]"},
		"no MAC":                 {"VerifyMac", m{"Mac": nil}, "ValidationException", failed + "null at 'mac' failed to satisfy constraint: Member must not be null"},
		"empty MAC":              {"VerifyMac", m{"Mac": ""}, "ValidationException", failed + "at 'mac' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		"long MAC":               {"VerifyMac", m{"Mac": make([]byte, 6145)}, "ValidationException", failed + "at 'mac' failed to satisfy constraint: Member must have length less than or equal to 6144"},
		"key that encrypts":      {"GenerateMac", m{"KeyId": symmetric}, "InvalidKeyUsageException", symmetric + " key usage is ENCRYPT_DECRYPT which is not valid for GenerateMac."},
		"verify with it":         {"VerifyMac", m{"KeyId": symmetric}, "InvalidKeyUsageException", symmetric + " key usage is ENCRYPT_DECRYPT which is not valid for VerifyMac."},
		"algorithm of another":   {"GenerateMac", m{"MacAlgorithm": "HMAC_SHA_512"}, "InvalidKeyUsageException", "Algorithm HMAC_SHA_512 is incompatible with key spec HMAC_256."},
		"verify by it":           {"VerifyMac", m{"MacAlgorithm": "HMAC_SHA_512"}, "InvalidKeyUsageException", "Algorithm HMAC_SHA_512 is incompatible with key spec HMAC_256."},
		"no such key":            {"GenerateMac", m{"KeyId": nowhere}, "NotFoundException", "Key '" + keyARN(own, nowhere) + "' does not exist"},
		"trial":                  {"GenerateMac", m{"DryRun": true}, "DryRunOperationException", dryRunText},
		"trial of a good one":    {"VerifyMac", m{"DryRun": true}, "DryRunOperationException", dryRunText},
		"trial of a bad one":     {"VerifyMac", m{"DryRun": true, "Message": []byte("n")}, "KMSInvalidMacException", ""},
		"trial, wrong algorithm": {"VerifyMac", m{"DryRun": true, "MacAlgorithm": "HMAC_SHA_512"}, "InvalidKeyUsageException", "Algorithm HMAC_SHA_512 is incompatible with key spec HMAC_256."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := m{"KeyId": key, "Message": []byte("m"), "MacAlgorithm": "HMAC_SHA_256"}
			if tc.operation == "VerifyMac" {
				in["Mac"] = mac
			}
			g.refused(t, own, tc.operation, with(in, tc.in), tc.code, tc.message)
		})
	}
	// Every way in which a MAC can be wrong is one and the same answer.
	right := unbase64(t, mac.(string))
	for _, wrong := range wrongBytes(right) {
		g.refused(t, own, "VerifyMac", m{"KeyId": key, "Message": []byte("m"), "MacAlgorithm": "HMAC_SHA_256", "Mac": wrong}, "KMSInvalidMacException", "")
	}
}

// with is a request with some members set otherwise.
func with(in, otherwise m) m {
	all := m{}
	for _, members := range []m{in, otherwise} {
		for name, value := range members {
			all[name] = value
		}
	}
	return all
}

// wrongBytes are bytes that differ from the right ones: cut, longer, changed at
// either end, and such that have nothing to do with them.
func wrongBytes(right []byte) (wrong [][]byte) {
	for _, bit := range []int{0, len(right)*8 - 1, len(right) * 4} {
		changed := bytes.Clone(right)
		changed[bit/8] ^= 1 << (bit % 8)
		wrong = append(wrong, changed)
	}
	return append(wrong, right[:1], right[:len(right)-1], right[1:], append(bytes.Clone(right), 0), append([]byte{0}, right...),
		make([]byte, len(right)), bytes.Repeat([]byte{0xff}, len(right)), []byte("?"), make([]byte, 6144), fmt.Appendf(nil, "%x", right))
}

// unbase64 is what a blob in an answer holds.
func unbase64(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
