package policy_test

import (
	"fmt"

	"kmsgate/policy"
)

func ExampleAuthorize() {
	keyPolicy, err := policy.Parse(`{
		"Version": "2012-10-17",
		"Statement": [
			{"Sid": "everything", "Effect": "Allow", "Principal": {"AWS": "111122223333"}, "Action": "kms:*", "Resource": "*"},
			{"Sid": "only finance decrypts", "Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*",
				"Condition": {"StringNotEquals": {"kms:EncryptionContext:dept": "finance"}}}
		]}`)
	if err != nil {
		fmt.Println(err)
		return
	}
	in := policy.Input{
		Caller:    policy.Principal{Kind: policy.AccountRoot, Account: "111122223333", ARN: "arn:aws:iam::111122223333:root"},
		Action:    "kms:Decrypt",
		Resource:  "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
		Owner:     "111122223333",
		KeyPolicy: keyPolicy,
		Context:   policy.Facts{{Key: "kms:EncryptionContext:dept", Values: []string{"sales"}}},
	}
	d := policy.Authorize(in)
	fmt.Println(d.Allowed, d.Reason, d.Sid)

	in.Context = policy.Facts{{Key: "kms:EncryptionContext:dept", Values: []string{"finance"}}}
	d = policy.Authorize(in)
	fmt.Println(d.Allowed, d.Reason, d.Sid)
	// Output:
	// false KeyPolicyDenies only finance decrypts
	// true AccountAllows everything
}
