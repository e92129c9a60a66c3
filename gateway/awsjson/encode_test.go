package awsjson_test

import (
	"net/http"
	"testing"
	"time"

	"kmsgate/gateway/awsjson"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
)

func TestEncode(t *testing.T) {
	t.Parallel()
	created := kmsapi.Timestamp{Time: time.UnixMilli(1593622000191)}
	for name, test := range map[string]struct {
		out  any
		want string
	}{
		"no output":         {kmsapi.Empty{}, ""},
		"no output, by ref": {&kmsapi.Empty{}, ""},
		"metadata": {
			&kmsapi.DescribeKeyResponse{KeyMetadata: kmsapi.KeyMetadata{
				AWSAccountID: "111122223333", KeyID: "k", ARN: "a", CreationDate: created, Enabled: true, KeyUsage: keyspec.EncryptDecrypt,
				KeyState: kmsapi.Enabled, Origin: keyspec.AWSKMS, KeyManager: kmsapi.ManagedByCustomer, CustomerMasterKeySpec: keyspec.SymmetricDefault,
				KeySpec: keyspec.SymmetricDefault, EncryptionAlgorithms: []keyspec.Algorithm{keyspec.AlgorithmSymmetricDefault}, CurrentKeyMaterialID: "m",
			}},
			`{"KeyMetadata":{"AWSAccountId":"111122223333","KeyId":"k","Arn":"a","CreationDate":1593622000.191,"Enabled":true,"Description":"",` +
				`"KeyUsage":"ENCRYPT_DECRYPT","KeyState":"Enabled","Origin":"AWS_KMS","KeyManager":"CUSTOMER","CustomerMasterKeySpec":"SYMMETRIC_DEFAULT",` +
				`"KeySpec":"SYMMETRIC_DEFAULT","MultiRegion":false,"EncryptionAlgorithms":["SYMMETRIC_DEFAULT"],"CurrentKeyMaterialId":"m"}}`,
		},
		"multi-Region": {
			&kmsapi.MultiRegionConfiguration{MultiRegionKeyType: kmsapi.Primary, PrimaryKey: &kmsapi.MultiRegionKey{ARN: "a", Region: "r"}},
			`{"MultiRegionKeyType":"PRIMARY","PrimaryKey":{"Arn":"a","Region":"r"},"ReplicaKeys":[]}`,
		},
		"encrypt": {
			&kmsapi.EncryptResponse{CiphertextBlob: kmsapi.Blob{0, 0xff}, KeyID: "a", EncryptionAlgorithm: keyspec.AlgorithmSymmetricDefault},
			`{"CiphertextBlob":"AP8=","KeyId":"a","EncryptionAlgorithm":"SYMMETRIC_DEFAULT"}`,
		},
		"decrypt": {
			&kmsapi.DecryptResponse{KeyID: "a", Plaintext: kmsapi.Secret("abc"), EncryptionAlgorithm: keyspec.AlgorithmSymmetricDefault, KeyMaterialID: "m"},
			`{"KeyId":"a","Plaintext":"YWJj","EncryptionAlgorithm":"SYMMETRIC_DEFAULT","KeyMaterialId":"m"}`,
		},
		"last page": {
			&kmsapi.ListKeysResponse{},
			`{"Keys":[],"Truncated":false}`,
		},
		"page": {
			&kmsapi.ListKeysResponse{Keys: []kmsapi.KeyListEntry{{KeyID: "k", KeyARN: "a"}}, Page: kmsapi.Page{NextMarker: "m", Truncated: true}},
			`{"Keys":[{"KeyId":"k","KeyArn":"a"}],"NextMarker":"m","Truncated":true}`,
		},
		"alias": {
			&kmsapi.AliasListEntry{AliasName: "alias/a", AliasARN: "a", CreationDate: created, LastUpdatedDate: created},
			`{"AliasName":"alias/a","AliasArn":"a","CreationDate":1593622000.191,"LastUpdatedDate":1593622000.191}`,
		},
		"tags": {
			&kmsapi.ListResourceTagsResponse{Tags: []kmsapi.Tag{{TagKey: new("k"), TagValue: new("")}}},
			`{"Tags":[{"TagKey":"k","TagValue":""}],"Truncated":false}`,
		},
		"policy with HTML": {
			&kmsapi.GetKeyPolicyResponse{Policy: "{\n  \"a\" : \"<&>\u2028\"\n}", PolicyName: "default"},
			`{"Policy":"{\n  \"a\" : \"<&>` + "\u2028" + `\"\n}","PolicyName":"default"}`,
		},
		"request": {
			&kmsapi.EncryptRequest{KeyID: new("k"), Plaintext: kmsapi.Secret("abc"), EncryptionContext: map[string]string{"b": "2", "a": "1"}},
			`{"KeyId":"k","Plaintext":"YWJj","EncryptionContext":{"a":"1","b":"2"}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := awsjson.Encode(test.out)
			if err != nil || string(got) != test.want {
				t.Errorf("Encode = %s, %v\nwant %s", got, err, test.want)
			}
		})
	}
}

func TestEncodeRefusesBytesThatAreNotText(t *testing.T) {
	t.Parallel()
	if got, err := awsjson.Encode(&kmsapi.GetKeyPolicyResponse{Policy: "\xff"}); err == nil {
		t.Errorf("Encode = %q, want an error", got)
	}
}

func TestEncodeError(t *testing.T) {
	t.Parallel()
	for want, test := range map[string]struct {
		err    *kmsapi.Error
		status int
	}{
		`{"__type":"InvalidCiphertextException"}`:                                                               {kmsapi.InvalidCiphertext(), http.StatusBadRequest},
		`{"__type":"SerializationException"}`:                                                                   {kmsapi.Serialization(""), http.StatusBadRequest},
		`{"__type":"SerializationException","Message":"Expected null"}`:                                         {kmsapi.Serialization("Expected null"), http.StatusBadRequest},
		`{"__type":"AccessDeniedException","Message":"m"}`:                                                      {&kmsapi.Error{Code: kmsapi.AccessDeniedException, Message: "m"}, http.StatusBadRequest},
		`{"__type":"NotFoundException","message":"Invalid keyId '\"<&>` + "\u2028" + `\n�'"}`:                   {kmsapi.InvalidKeyID("\"<&>\u2028\n\xff"), http.StatusBadRequest},
		`{"__type":"RequestEntityTooLargeException","message":"Request body must not be larger than 1 bytes."}`: {kmsapi.BodyTooLarge(1), http.StatusRequestEntityTooLarge},
		`{"__type":"KMSInternalException","message":"The request was rejected because an internal exception occurred. The request can be retried."}`: {
			kmsapi.Internal(), http.StatusInternalServerError,
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			status, got := awsjson.EncodeError(test.err)
			if status != test.status || string(got) != want {
				t.Errorf("EncodeError = %d %s\nwant %d %s", status, got, test.status, want)
			}
		})
	}
}
