package policy_test

import (
	"strings"
	"testing"

	"kmsgate/policy"
)

func TestFormatLaysOutAsKMSDoes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ doc, want string }{
		"order is kept": {
			`{"Statement":[{"Resource":["*","x"],"Effect":"Allow"},{"Condition":{}}],"Version":"2012-10-17"}`,
			"{\n  \"Statement\" : [ {\n    \"Resource\" : [ \"*\", \"x\" ],\n    \"Effect\" : \"Allow\"\n  }, {\n    \"Condition\" : { }\n  } ],\n  \"Version\" : \"2012-10-17\"\n}",
		},
		"values of all types": {
			`{"a": [true, false, null, 1.50, []]}`,
			"{\n  \"a\" : [ true, false, null, 1.50, [ ] ]\n}",
		},
		"strings": {
			`{"\u0041\/": "\"\\\b\t\n\f\r\u001f\u00e9é<>&\u003c"}`,
			"{\n  \"A/\" : \"\\\"\\\\\\b\\t\\n\\f\\r\\u001Féé<>&<\"\n}",
		},
		"empty": {`{}`, "{ }"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := policy.Format(tt.doc)
			if err != nil || got != tt.want {
				t.Errorf("Format(%s) = %s, %v, want %s", tt.doc, got, err, tt.want)
			}
		})
	}
}

func TestFormatLeavesTheDefaultKeyPolicyAsItIs(t *testing.T) {
	t.Parallel()
	const want = "{\n  \"Version\" : \"2012-10-17\",\n  \"Id\" : \"key-default-1\",\n  \"Statement\" : [ {\n    \"Sid\" : \"Enable IAM User Permissions\",\n" +
		"    \"Effect\" : \"Allow\",\n    \"Principal\" : {\n      \"AWS\" : \"arn:aws:iam::111122223333:root\"\n    },\n" +
		"    \"Action\" : \"kms:*\",\n    \"Resource\" : \"*\"\n  } ]\n}"
	if got := policy.DefaultKeyPolicy(account); got != want {
		t.Errorf("DefaultKeyPolicy = %s, want %s", got, want)
	}
	if got, err := policy.Format(strings.Join(strings.Fields(want), " ")); err != nil || got != want {
		t.Errorf("Format = %s, %v, want %s", got, err, want)
	}
}

func TestFormatRefusesWhatIsNotJSON(t *testing.T) {
	t.Parallel()
	if got, err := policy.Format(`{"a":`); got != "" || text(err) != "policy: invalid JSON at byte 5" {
		t.Errorf("Format = %q, %v, want an error", got, err)
	}
}
