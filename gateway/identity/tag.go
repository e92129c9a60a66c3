package identity

// Tag is a label of a user, a role or a session. Both members are required; the
// value may be empty (IAM API Reference, "Tag").
type Tag struct {
	Key   *string `kms:"required,len=1..128,pattern=IAMTag"`
	Value *string `kms:"required,len=0..256,pattern=IAMTag"`
}
