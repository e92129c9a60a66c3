package sigv4_test

import (
	"strings"
	"testing"
)

// AWS's signature version 4 test suite, as requests that arrive at a server:
// method, target, headers but host, signed headers beside the ones named "host"
// and "x-amz-date", signature. Vectors with a raw space in the target cannot
// arrive.
var vectors = []struct {
	name, method, target string
	headers              []string
	body, signedHeaders  string
	signature            string
}{
	{"get-vanilla", "GET", "/", nil, "", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
	{"post-vanilla", "POST", "/", nil, "", "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
	{"post-vanilla-query", "POST", "/?Param1=value1", nil, "", "", "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"},
	{"get-vanilla-empty-query-key", "GET", "/?Param1=value1", nil, "", "", "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"},
	{"get-vanilla-query-order-key-case", "GET", "/?Param2=value2&Param1=value1", nil, "", "", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
	{"get-vanilla-query-order-encoded", "GET", "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1", nil, "", "", "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac"},
	{"get-vanilla-query-unreserved", "GET", "/?" + unreserved + "=" + unreserved, nil, "", "", "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"},
	{"get-vanilla-utf8-query", "GET", "/?\u1234=bar", nil, "", "", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
	{"get-unreserved", "GET", "/" + unreserved, nil, "", "", "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
	{"get-utf8", "GET", "/\u1234", nil, "", "", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
	{"get-relative-relative", "GET", "/example1/example2/../..", nil, "", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
	{"get-slash-dot-slash", "GET", "/./", nil, "", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
	{"get-slash-pointless-dot", "GET", "/./example", nil, "", "", "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5"},
	{"get-slashes", "GET", "//example//", nil, "", "", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"},
	{
		"get-header-key-duplicate", "GET", "/",
		[]string{"My-Header1: value2", "My-Header1: value2", "My-Header1: value1"},
		"", "my-header1", "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
	},
	{
		"get-header-value-order", "GET", "/",
		[]string{"My-Header1: value4", "My-Header1: value1", "My-Header1: value3", "My-Header1: value2"},
		"", "my-header1", "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
	},
	{
		"get-header-value-trim", "GET", "/",
		[]string{"My-Header1:  value1", `My-Header2: "a   b   c"`},
		"", "my-header1;my-header2", "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
	},
	{
		"get-header-value-multiline", "GET", "/",
		[]string{"My-Header1: value1\r\n  value2\r\n     value3"},
		"", "my-header1", "cfd34249e4b1c8d6b91ef74165d41a32e5fab3306300901bb65a51a73575eefd",
	},
	{
		"post-header-key-sort", "POST", "/",
		[]string{"My-Header1: value1"},
		"", "my-header1", "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
	},
	{
		"post-header-value-case", "POST", "/",
		[]string{"My-Header1: VALUE1"},
		"", "my-header1", "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
	},
	{
		"get-vanilla-with-session-token", "GET", "/",
		[]string{"X-Amz-Security-Token: 6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"},
		"", "x-amz-security-token", "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
	},
	{
		"post-x-www-form-urlencoded", "POST", "/",
		[]string{
			"Content-Type: application/x-www-form-urlencoded",
			"X-Amz-Content-Sha256: 9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e",
		},
		"Param1=value1", "content-length;content-type;x-amz-content-sha256",
		"d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
	},
	{
		"post-x-www-form-urlencoded-parameters", "POST", "/",
		[]string{"Content-Type: application/x-www-form-urlencoded; charset=utf8"},
		"Param1=value1", "content-type", "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe",
	},
}

// The same suite, signed in the query string.
var queryVectors = []struct{ name, target, signature string }{
	{"get-vanilla-query-order-encoded", "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1&", "c5f1848ceec943ac2ca68ee720460c23aaae30a2300586597ada94c4a65e4787"},
	{"get-vanilla-query-order-key-case", "/?Param2=value2&Param1=value1&", "86012e2c9ad4d77369f5d81c11f75158aae4f895a085212cc6d3f923d300bed5"},
	{
		"get-vanilla-with-session-token", "/?X-Amz-Security-Token=6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267&",
		"7ff2b50b376cb4d151970630573d6291dc128cc5c2a12ffb237f73cc53f67b6c",
	},
}

const unreserved = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

const suiteScope = day + "/us-east-1/service/aws4_request"

func TestVerifyAcceptsTheTestSuite(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			q := request{method: v.method, target: v.target, host: "example.amazonaws.com", headers: v.headers, body: v.body}
			q = q.with("X-Amz-Date: "+amzDate, "Authorization: AWS4-HMAC-SHA256 Credential="+accessKey+"/"+suiteScope+
				", SignedHeaders="+withHostAndDate(v.signedHeaders)+", Signature="+v.signature)
			r, body := q.read(t)
			if err := verify(r, body, signedAt, "service"); err != nil {
				t.Errorf("verify(%q) = %v, want nil", q.wire(), err)
			}
		})
	}
	for _, v := range queryVectors {
		t.Run("query-"+v.name, func(t *testing.T) {
			t.Parallel()
			q := request{method: "GET", host: "example.amazonaws.com", target: v.target +
				"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=" + accessKey + "%2F" + strings.ReplaceAll(suiteScope, "/", "%2F") +
				"&X-Amz-Date=" + amzDate + "&X-Amz-SignedHeaders=host&X-Amz-Expires=3600&X-Amz-Signature=" + v.signature}
			r, body := q.read(t)
			if err := verify(r, body, signedAt, "service"); err != nil {
				t.Errorf("verify(%q) = %v, want nil", q.wire(), err)
			}
		})
	}
}

// withHostAndDate puts the two headers that all vectors sign into a sorted list.
func withHostAndDate(names string) string {
	var before, between, after []string
	for name := range strings.SplitSeq(names, ";") {
		switch {
		case name == "":
		case name < "host":
			before = append(before, name)
		case name < "x-amz-date":
			between = append(between, name)
		default:
			after = append(after, name)
		}
	}
	list := append(append(before, "host"), between...)
	return strings.Join(append(append(list, "x-amz-date"), after...), ";")
}
