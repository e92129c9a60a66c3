package kmsapi_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
)

// pairs are our types and the SDK's of the same shape. Nested types are
// compared where they are met.
var pairs = map[string]struct{ ours, sdks any }{
	"CreateKeyRequest":                            {kmsapi.CreateKeyRequest{}, kms.CreateKeyInput{}},
	"CreateKeyResponse":                           {kmsapi.CreateKeyResponse{}, kms.CreateKeyOutput{}},
	"DescribeKeyRequest":                          {kmsapi.DescribeKeyRequest{}, kms.DescribeKeyInput{}},
	"DescribeKeyResponse":                         {kmsapi.DescribeKeyResponse{}, kms.DescribeKeyOutput{}},
	"ListKeysRequest":                             {kmsapi.ListKeysRequest{}, kms.ListKeysInput{}},
	"ListKeysResponse":                            {kmsapi.ListKeysResponse{}, kms.ListKeysOutput{}},
	"EnableKeyRequest":                            {kmsapi.EnableKeyRequest{}, kms.EnableKeyInput{}},
	"EnableKeyResponse":                           {kmsapi.EnableKeyResponse{}, kms.EnableKeyOutput{}},
	"DisableKeyRequest":                           {kmsapi.DisableKeyRequest{}, kms.DisableKeyInput{}},
	"DisableKeyResponse":                          {kmsapi.DisableKeyResponse{}, kms.DisableKeyOutput{}},
	"UpdateKeyDescriptionRequest":                 {kmsapi.UpdateKeyDescriptionRequest{}, kms.UpdateKeyDescriptionInput{}},
	"UpdateKeyDescriptionResponse":                {kmsapi.UpdateKeyDescriptionResponse{}, kms.UpdateKeyDescriptionOutput{}},
	"EncryptRequest":                              {kmsapi.EncryptRequest{}, kms.EncryptInput{}},
	"EncryptResponse":                             {kmsapi.EncryptResponse{}, kms.EncryptOutput{}},
	"DecryptRequest":                              {kmsapi.DecryptRequest{}, kms.DecryptInput{}},
	"DecryptResponse":                             {kmsapi.DecryptResponse{}, kms.DecryptOutput{}},
	"ReEncryptRequest":                            {kmsapi.ReEncryptRequest{}, kms.ReEncryptInput{}},
	"ReEncryptResponse":                           {kmsapi.ReEncryptResponse{}, kms.ReEncryptOutput{}},
	"GenerateDataKeyRequest":                      {kmsapi.GenerateDataKeyRequest{}, kms.GenerateDataKeyInput{}},
	"GenerateDataKeyResponse":                     {kmsapi.GenerateDataKeyResponse{}, kms.GenerateDataKeyOutput{}},
	"GenerateDataKeyWithoutPlaintextRequest":      {kmsapi.GenerateDataKeyWithoutPlaintextRequest{}, kms.GenerateDataKeyWithoutPlaintextInput{}},
	"GenerateDataKeyWithoutPlaintextResponse":     {kmsapi.GenerateDataKeyWithoutPlaintextResponse{}, kms.GenerateDataKeyWithoutPlaintextOutput{}},
	"GenerateRandomRequest":                       {kmsapi.GenerateRandomRequest{}, kms.GenerateRandomInput{}},
	"GenerateRandomResponse":                      {kmsapi.GenerateRandomResponse{}, kms.GenerateRandomOutput{}},
	"GetPublicKeyRequest":                         {kmsapi.GetPublicKeyRequest{}, kms.GetPublicKeyInput{}},
	"GetPublicKeyResponse":                        {kmsapi.GetPublicKeyResponse{}, kms.GetPublicKeyOutput{}},
	"SignRequest":                                 {kmsapi.SignRequest{}, kms.SignInput{}},
	"SignResponse":                                {kmsapi.SignResponse{}, kms.SignOutput{}},
	"VerifyRequest":                               {kmsapi.VerifyRequest{}, kms.VerifyInput{}},
	"VerifyResponse":                              {kmsapi.VerifyResponse{}, kms.VerifyOutput{}},
	"GenerateMacRequest":                          {kmsapi.GenerateMacRequest{}, kms.GenerateMacInput{}},
	"GenerateMacResponse":                         {kmsapi.GenerateMacResponse{}, kms.GenerateMacOutput{}},
	"VerifyMacRequest":                            {kmsapi.VerifyMacRequest{}, kms.VerifyMacInput{}},
	"VerifyMacResponse":                           {kmsapi.VerifyMacResponse{}, kms.VerifyMacOutput{}},
	"DeriveSharedSecretRequest":                   {kmsapi.DeriveSharedSecretRequest{}, kms.DeriveSharedSecretInput{}},
	"DeriveSharedSecretResponse":                  {kmsapi.DeriveSharedSecretResponse{}, kms.DeriveSharedSecretOutput{}},
	"EncapsulateRequest":                          {kmsapi.EncapsulateRequest{}, kms.EncapsulateInput{}},
	"EncapsulateResponse":                         {kmsapi.EncapsulateResponse{}, kms.EncapsulateOutput{}},
	"DecapsulateRequest":                          {kmsapi.DecapsulateRequest{}, kms.DecapsulateInput{}},
	"DecapsulateResponse":                         {kmsapi.DecapsulateResponse{}, kms.DecapsulateOutput{}},
	"GenerateDataKeyPairRequest":                  {kmsapi.GenerateDataKeyPairRequest{}, kms.GenerateDataKeyPairInput{}},
	"GenerateDataKeyPairResponse":                 {kmsapi.GenerateDataKeyPairResponse{}, kms.GenerateDataKeyPairOutput{}},
	"GenerateDataKeyPairWithoutPlaintextRequest":  {kmsapi.GenerateDataKeyPairWithoutPlaintextRequest{}, kms.GenerateDataKeyPairWithoutPlaintextInput{}},
	"GenerateDataKeyPairWithoutPlaintextResponse": {kmsapi.GenerateDataKeyPairWithoutPlaintextResponse{}, kms.GenerateDataKeyPairWithoutPlaintextOutput{}},
	"CreateAliasRequest":                          {kmsapi.CreateAliasRequest{}, kms.CreateAliasInput{}},
	"CreateAliasResponse":                         {kmsapi.CreateAliasResponse{}, kms.CreateAliasOutput{}},
	"UpdateAliasRequest":                          {kmsapi.UpdateAliasRequest{}, kms.UpdateAliasInput{}},
	"UpdateAliasResponse":                         {kmsapi.UpdateAliasResponse{}, kms.UpdateAliasOutput{}},
	"DeleteAliasRequest":                          {kmsapi.DeleteAliasRequest{}, kms.DeleteAliasInput{}},
	"DeleteAliasResponse":                         {kmsapi.DeleteAliasResponse{}, kms.DeleteAliasOutput{}},
	"ListAliasesRequest":                          {kmsapi.ListAliasesRequest{}, kms.ListAliasesInput{}},
	"ListAliasesResponse":                         {kmsapi.ListAliasesResponse{}, kms.ListAliasesOutput{}},
	"TagResourceRequest":                          {kmsapi.TagResourceRequest{}, kms.TagResourceInput{}},
	"TagResourceResponse":                         {kmsapi.TagResourceResponse{}, kms.TagResourceOutput{}},
	"UntagResourceRequest":                        {kmsapi.UntagResourceRequest{}, kms.UntagResourceInput{}},
	"UntagResourceResponse":                       {kmsapi.UntagResourceResponse{}, kms.UntagResourceOutput{}},
	"ListResourceTagsRequest":                     {kmsapi.ListResourceTagsRequest{}, kms.ListResourceTagsInput{}},
	"ListResourceTagsResponse":                    {kmsapi.ListResourceTagsResponse{}, kms.ListResourceTagsOutput{}},
	"GetKeyPolicyRequest":                         {kmsapi.GetKeyPolicyRequest{}, kms.GetKeyPolicyInput{}},
	"GetKeyPolicyResponse":                        {kmsapi.GetKeyPolicyResponse{}, kms.GetKeyPolicyOutput{}},
	"PutKeyPolicyRequest":                         {kmsapi.PutKeyPolicyRequest{}, kms.PutKeyPolicyInput{}},
	"PutKeyPolicyResponse":                        {kmsapi.PutKeyPolicyResponse{}, kms.PutKeyPolicyOutput{}},
	"ListKeyPoliciesRequest":                      {kmsapi.ListKeyPoliciesRequest{}, kms.ListKeyPoliciesInput{}},
	"ListKeyPoliciesResponse":                     {kmsapi.ListKeyPoliciesResponse{}, kms.ListKeyPoliciesOutput{}},
	"CreateGrantRequest":                          {kmsapi.CreateGrantRequest{}, kms.CreateGrantInput{}},
	"CreateGrantResponse":                         {kmsapi.CreateGrantResponse{}, kms.CreateGrantOutput{}},
	"ListGrantsRequest":                           {kmsapi.ListGrantsRequest{}, kms.ListGrantsInput{}},
	"ListGrantsResponse":                          {kmsapi.ListGrantsResponse{}, kms.ListGrantsOutput{}},
	"ListRetirableGrantsRequest":                  {kmsapi.ListRetirableGrantsRequest{}, kms.ListRetirableGrantsInput{}},
	"ListRetirableGrantsResponse":                 {kmsapi.ListRetirableGrantsResponse{}, kms.ListRetirableGrantsOutput{}},
	"RetireGrantRequest":                          {kmsapi.RetireGrantRequest{}, kms.RetireGrantInput{}},
	"RetireGrantResponse":                         {kmsapi.RetireGrantResponse{}, kms.RetireGrantOutput{}},
	"RevokeGrantRequest":                          {kmsapi.RevokeGrantRequest{}, kms.RevokeGrantInput{}},
	"ScheduleKeyDeletionRequest":                  {kmsapi.ScheduleKeyDeletionRequest{}, kms.ScheduleKeyDeletionInput{}},
	"ScheduleKeyDeletionResponse":                 {kmsapi.ScheduleKeyDeletionResponse{}, kms.ScheduleKeyDeletionOutput{}},
	"CancelKeyDeletionRequest":                    {kmsapi.CancelKeyDeletionRequest{}, kms.CancelKeyDeletionInput{}},
	"CancelKeyDeletionResponse":                   {kmsapi.CancelKeyDeletionResponse{}, kms.CancelKeyDeletionOutput{}},
	"RevokeGrantResponse":                         {kmsapi.RevokeGrantResponse{}, kms.RevokeGrantOutput{}},
	"GetParametersForImportRequest":               {kmsapi.GetParametersForImportRequest{}, kms.GetParametersForImportInput{}},
	"GetParametersForImportResponse":              {kmsapi.GetParametersForImportResponse{}, kms.GetParametersForImportOutput{}},
	"ImportKeyMaterialRequest":                    {kmsapi.ImportKeyMaterialRequest{}, kms.ImportKeyMaterialInput{}},
	"ImportKeyMaterialResponse":                   {kmsapi.ImportKeyMaterialResponse{}, kms.ImportKeyMaterialOutput{}},
	"DeleteImportedKeyMaterialRequest":            {kmsapi.DeleteImportedKeyMaterialRequest{}, kms.DeleteImportedKeyMaterialInput{}},
	"DeleteImportedKeyMaterialResponse":           {kmsapi.DeleteImportedKeyMaterialResponse{}, kms.DeleteImportedKeyMaterialOutput{}},
	"GetKeyLastUsageRequest":                      {kmsapi.GetKeyLastUsageRequest{}, kms.GetKeyLastUsageInput{}},
	"GetKeyLastUsageResponse":                     {kmsapi.GetKeyLastUsageResponse{}, kms.GetKeyLastUsageOutput{}},
	"DisableKeyRotationRequest":                   {kmsapi.DisableKeyRotationRequest{}, kms.DisableKeyRotationInput{}},
	"DisableKeyRotationResponse":                  {kmsapi.DisableKeyRotationResponse{}, kms.DisableKeyRotationOutput{}},
	"UpdatePrimaryRegionRequest":                  {kmsapi.UpdatePrimaryRegionRequest{}, kms.UpdatePrimaryRegionInput{}},
	"UpdatePrimaryRegionResponse":                 {kmsapi.UpdatePrimaryRegionResponse{}, kms.UpdatePrimaryRegionOutput{}},
	"EnableKeyRotationRequest":                    {kmsapi.EnableKeyRotationRequest{}, kms.EnableKeyRotationInput{}},
	"EnableKeyRotationResponse":                   {kmsapi.EnableKeyRotationResponse{}, kms.EnableKeyRotationOutput{}},
	"GetKeyRotationStatusRequest":                 {kmsapi.GetKeyRotationStatusRequest{}, kms.GetKeyRotationStatusInput{}},
	"GetKeyRotationStatusResponse":                {kmsapi.GetKeyRotationStatusResponse{}, kms.GetKeyRotationStatusOutput{}},
	"ListKeyRotationsRequest":                     {kmsapi.ListKeyRotationsRequest{}, kms.ListKeyRotationsInput{}},
	"ListKeyRotationsResponse":                    {kmsapi.ListKeyRotationsResponse{}, kms.ListKeyRotationsOutput{}},
	"ReplicateKeyRequest":                         {kmsapi.ReplicateKeyRequest{}, kms.ReplicateKeyInput{}},
	"ReplicateKeyResponse":                        {kmsapi.ReplicateKeyResponse{}, kms.ReplicateKeyOutput{}},
	"RotateKeyOnDemandRequest":                    {kmsapi.RotateKeyOnDemandRequest{}, kms.RotateKeyOnDemandInput{}},
	"RotateKeyOnDemandResponse":                   {kmsapi.RotateKeyOnDemandResponse{}, kms.RotateKeyOnDemandOutput{}},
}

func TestTypesHaveTheMembersOfTheSDK(t *testing.T) {
	t.Parallel()
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compareStructs(t, name, reflect.TypeOf(pair.ours), reflect.TypeOf(pair.sdks))
		})
	}
}

func compareStructs(t *testing.T, path string, ours, sdks reflect.Type) {
	t.Helper()
	our, sdk := membersOf(ours), membersOf(sdks)
	for name, field := range sdk {
		if _, ok := our[name]; !ok {
			t.Errorf("%s has no member %s, the SDK has one of type %v", path, name, field)
		}
	}
	for name, field := range our {
		want, ok := sdk[name]
		if !ok {
			t.Errorf("%s has a member %s, the SDK has none", path, name)
			continue
		}
		compareTypes(t, path+"."+name, field, want)
	}
}

// membersOf are a struct's members by their name on the wire. The SDK's names
// are the wire's.
func membersOf(t reflect.Type) map[string]reflect.Type {
	members := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		if !f.IsExported() || f.Name == "ResultMetadata" {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		members[name] = f.Type
	}
	return members
}

func compareTypes(t *testing.T, path string, ours, sdks reflect.Type) {
	t.Helper()
	ours, sdks = withoutPointer(ours), withoutPointer(sdks)
	switch {
	case sdks == reflect.TypeFor[time.Time]():
		if ours != reflect.TypeFor[kmsapi.Timestamp]() {
			t.Errorf("%s is %v, want a Timestamp", path, ours)
		}
	case ours.Kind() != sdks.Kind():
		t.Errorf("%s is %v, the SDK has %v", path, ours, sdks)
	case ours.Kind() == reflect.Struct:
		compareStructs(t, path, ours, sdks)
	case ours.Kind() == reflect.Slice, ours.Kind() == reflect.Map:
		compareTypes(t, path+"[]", ours.Elem(), sdks.Elem())
	}
}

func withoutPointer(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

func TestCodesHaveEveryErrorOfTheSDK(t *testing.T) {
	t.Parallel()
	modelled := 0
	for name, entry := range kms.TypeRegistry.Entries {
		e, ok := entry.New().(interface{ ErrorCode() string })
		if !ok {
			continue
		}
		modelled++
		if !slices.ContainsFunc(kmsapi.Codes, func(r kmsapi.CodeRow) bool { return string(r.Code) == e.ErrorCode() }) {
			t.Errorf("Codes has no row for %s (%s)", e.ErrorCode(), name)
		}
	}
	if modelled < 48 {
		t.Errorf("the SDK's registry has %d errors, want at least 48", modelled)
	}
}

func TestEnumsAreThoseOfTheSDK(t *testing.T) {
	t.Parallel()
	check(t, "KeyState", []kmsapi.KeyState{
		kmsapi.Creating, kmsapi.Enabled, kmsapi.Disabled, kmsapi.PendingDeletion,
		kmsapi.PendingImport, kmsapi.PendingReplicaDeletion, kmsapi.Unavailable, kmsapi.Updating,
	}, types.KeyState("").Values())
	check(t, "KeyManager", []kmsapi.KeyManager{kmsapi.ManagedByAWS, kmsapi.ManagedByCustomer}, types.KeyManagerType("").Values())
	check(t, "ExpirationModel", []kmsapi.ExpirationModel{kmsapi.KeyMaterialExpires, kmsapi.KeyMaterialDoesNotExpire},
		types.ExpirationModelType("").Values())
	check(t, "MultiRegionKeyType", []kmsapi.MultiRegionKeyType{kmsapi.Primary, kmsapi.Replica}, types.MultiRegionKeyType("").Values())
	check(t, "DataKeySpec", []kmsapi.DataKeySpec{kmsapi.AES256, kmsapi.AES128}, types.DataKeySpec("").Values())
}

func TestEnumConstraintsAreThoseOfTheSDK(t *testing.T) {
	t.Parallel()
	key := new("k")
	check(t, "KeySpec", printedBy(t, &kmsapi.CreateKeyRequest{KeySpec: new(keyspec.Spec("?"))}), types.KeySpec("").Values())
	check(t, "CustomerMasterKeySpec", printedBy(t, &kmsapi.CreateKeyRequest{CustomerMasterKeySpec: new(keyspec.Spec("?"))}),
		types.CustomerMasterKeySpec("").Values())
	check(t, "KeyUsage", printedBy(t, &kmsapi.CreateKeyRequest{KeyUsage: new(keyspec.Usage("?"))}), types.KeyUsageType("").Values())
	check(t, "Origin", printedBy(t, &kmsapi.CreateKeyRequest{Origin: new(keyspec.Origin("?"))}), types.OriginType("").Values())
	check(t, "EncryptionAlgorithm", printedBy(t, &kmsapi.EncryptRequest{
		KeyID: key, Plaintext: []byte("p"), EncryptionAlgorithm: new(keyspec.Algorithm("?")),
	}), types.EncryptionAlgorithmSpec("").Values())
	check(t, "KeyEncryptionMechanism", printedBy(t, &kmsapi.GenerateRandomRequest{
		Recipient: &kmsapi.RecipientInfo{KeyEncryptionAlgorithm: new(kmsapi.KeyEncryptionMechanism("?"))},
	}), types.KeyEncryptionMechanism("").Values())
	secret, blob := kmsapi.Secret("m"), kmsapi.Blob("b")
	check(t, "MessageType", printedBy(t, &kmsapi.SignRequest{
		KeyID: key, Message: secret, SigningAlgorithm: new(keyspec.ECDSASHA256), MessageType: new(keyspec.MessageType("?")),
	}), types.MessageType("").Values())
	check(t, "SigningAlgorithm", printedBy(t, &kmsapi.VerifyRequest{
		KeyID: key, Message: secret, Signature: blob, SigningAlgorithm: new(keyspec.Algorithm("?")),
	}), types.SigningAlgorithmSpec("").Values())
	check(t, "MacAlgorithm", printedBy(t, &kmsapi.GenerateMacRequest{
		KeyID: key, Message: secret, MacAlgorithm: new(keyspec.Algorithm("?")),
	}), types.MacAlgorithmSpec("").Values())
	check(t, "KeyAgreementAlgorithm", printedBy(t, &kmsapi.DeriveSharedSecretRequest{
		KeyID: key, PublicKey: blob, KeyAgreementAlgorithm: new(keyspec.Algorithm("?")),
	}), types.KeyAgreementAlgorithmSpec("").Values())
	check(t, "EncapsulationAlgorithm", printedBy(t, &kmsapi.EncapsulateRequest{
		KeyID: key, EncapsulationAlgorithm: new(keyspec.Algorithm("?")),
	}), types.EncapsulationAlgorithmSpec("").Values())
	check(t, "DataKeyPairSpec", printedBy(t, &kmsapi.GenerateDataKeyPairRequest{
		KeyID: key, KeyPairSpec: new(keyspec.Spec("?")),
	}), types.DataKeyPairSpec("").Values())
	check(t, "WrappingAlgorithm", printedBy(t, &kmsapi.GetParametersForImportRequest{
		KeyID: key, WrappingAlgorithm: new(keyspec.WrappingAlgorithm("?")), WrappingKeySpec: new(keyspec.RSA2048),
	}), types.AlgorithmSpec("").Values())
	check(t, "WrappingKeySpec", printedBy(t, &kmsapi.GetParametersForImportRequest{
		KeyID: key, WrappingAlgorithm: new(keyspec.WrapOAEPSHA1), WrappingKeySpec: new(keyspec.Spec("?")),
	}), types.WrappingKeySpec("").Values())
	check(t, "ExpirationModel", printedBy(t, &kmsapi.ImportKeyMaterialRequest{
		KeyID: key, ImportToken: secret, EncryptedKeyMaterial: secret, ExpirationModel: new(kmsapi.ExpirationModel("?")),
	}), types.ExpirationModelType("").Values())
	check(t, "ImportType", printedBy(t, &kmsapi.ImportKeyMaterialRequest{
		KeyID: key, ImportToken: secret, EncryptedKeyMaterial: secret, ImportType: new(kmsapi.ImportType("?")),
	}), types.ImportType("").Values())
	check(t, "IncludeKeyMaterial", printedBy(t, &kmsapi.ListKeyRotationsRequest{
		KeyID: key, IncludeKeyMaterial: new(kmsapi.IncludeKeyMaterial("?")),
	}), types.IncludeKeyMaterial("").Values())
	for _, value := range types.GrantOperation("").Values() {
		in := &kmsapi.CreateGrantRequest{KeyID: key, Operations: []kmsapi.GrantOperation{kmsapi.GrantOperation(value)}}
		if err := kmsapi.Validate(in); err != nil {
			t.Errorf("Validate of Operations [%s] = %v, want nil", value, err)
		}
	}
	for _, value := range types.DryRunModifierType("").Values() {
		in := &kmsapi.DecryptRequest{DryRunModifiers: []kmsapi.DryRunModifier{kmsapi.DryRunModifier(value)}}
		if err := kmsapi.Validate(in); err != nil {
			t.Errorf("Validate of DryRunModifiers [%s] = %v, want nil", value, err)
		}
	}
	for _, value := range types.DataKeySpec("").Values() {
		in := &kmsapi.GenerateDataKeyRequest{KeyID: key, KeySpec: new(kmsapi.DataKeySpec(value))}
		if err := kmsapi.Validate(in); err != nil {
			t.Errorf("Validate of KeySpec %s = %v, want nil", value, err)
		}
	}
}

// printedBy is the enum that a refusal of in prints.
func printedBy(t *testing.T, in any) []string {
	t.Helper()
	err := kmsapi.Validate(in)
	if err == nil {
		t.Fatalf("Validate(%+v) = nil, want an enum error", in)
	}
	_, list, ok := strings.Cut(err.Message, "enum value set: [")
	if !ok {
		t.Fatalf("Validate(%+v) = %v, want an enum error", in, err)
	}
	return strings.Split(strings.TrimSuffix(list, "]"), ", ")
}

func check[A, B ~string](t *testing.T, name string, got []A, want []B) {
	t.Helper()
	if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
		t.Errorf("values of %s (-SDK +ours):\n%s", name, diff)
	}
}

func sorted[T ~string](values []T) []string {
	names := make([]string, len(values))
	for i, v := range values {
		names[i] = string(v)
	}
	slices.Sort(names)
	return names
}
