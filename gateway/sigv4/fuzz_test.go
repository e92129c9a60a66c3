package sigv4_test

import (
	"bufio"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"testing"

	"kmsgate/gateway/sigv4"
)

// FuzzParseHeader reads whole requests. Whatever arrives, the parser neither panics
// nor says anything that is not printable, and no request verifies that was not
// signed.
func FuzzParseHeader(f *testing.F) {
	for _, c := range refusals {
		f.Add(c.request.wire())
	}
	f.Add(kmsRequest().signed(kmsScope, kmsSigned).wire())
	f.Add(at(presigned + "&X-Amz-Signature=" + presignature(presigned)).wire())
	unknown := [32]byte{1}
	f.Fuzz(func(t *testing.T, wire string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire)))
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s, err := sigv4.ParseHeader(r)
		if err == nil {
			s.SetBody(body)
			if err = s.CheckScope(s.Time, func(string) bool { return true }, s.Service); err == nil {
				err = s.Verify(unknown)
			}
		}
		e := refusal(t, err)
		if len(e.Message) > 8<<10 || strings.ContainsFunc(e.Error(), func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Errorf("refusal of %q is not printable: %q", wire, e.Error())
		}
	})
}

// FuzzQuery holds the canonical query string against net/url's reading: what
// verifies under one signature means one thing.
func FuzzQuery(f *testing.F) {
	for _, seed := range [...][2]string{
		{"a=1&b=2", "b=2&a=1"},
		{"a=%2f", "a=%2F"},
		{"a", "a="},
		{"a=&a=b", "a=b&a="},
		{"%61=b", "a=b"},
		{"a=b&", "&a=b"},
		{"a=b%26c=d", "a=b&c=d"},
		{"a=1%202", "a=1+2"},
		{"\u1234=bar", "%E1%88%B4=bar"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, signed, sent string) {
		if strings.ContainsAny(signed+sent, " #;\r\n") || strings.Contains(signed+sent, "X-Amz-") || !isQuery(signed) {
			return
		}
		q := kmsRequest()
		canonical := q.method + "\n/\n" + reference(signed) + "\ncontent-type:application/x-amz-json-1.1\nhost:" +
			q.host + "\nx-amz-date:" + amzDate + "\nx-amz-target:TrentService.Encrypt\n\n" + kmsSigned + "\n" + hexSum(q.body)
		q = q.to("/?" + sent).with(authorization + hexMAC(kmsScope, amzDate, canonical))
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(q.wire())))
		if err != nil {
			return
		}
		got := verify(r, []byte(q.body), signedAt, "kms") == nil
		want := !strings.Contains(sent, "+") && isQuery(sent) && reference(signed) == reference(sent)
		if got != want {
			t.Errorf("query %q signed as %q verifies = %t, want %t", sent, signed, got, want)
		}
	})
}

func isQuery(s string) bool {
	_, err := url.ParseQuery(s)
	return err == nil
}

// reference is the canonical form of a query by net/url's decoding and escaping.
func reference(s string) string {
	values, _ := url.ParseQuery(s) // callers ask isQuery
	var pairs [][]string
	for name, all := range values {
		for _, value := range all {
			pairs = append(pairs, []string{url.QueryEscape(name), url.QueryEscape(value)})
		}
	}
	slices.SortFunc(pairs, slices.Compare)
	lines := make([]string, len(pairs))
	for i, pair := range pairs {
		lines[i] = strings.ReplaceAll(strings.Join(pair, "="), "+", "%20")
	}
	return strings.Join(lines, "&")
}

// FuzzHeaderNames holds our look-up against net/textproto's spelling.
func FuzzHeaderNames(f *testing.F) {
	for _, name := range []string{"x-amz-date", "content-md5", "-a--b-", "1x", "x_y-z", "x-k8s-aws-id"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if name == "host" || name != strings.ToLower(name) || strings.ContainsAny(name, ";,= \t") || strings.HasPrefix(name, "content-") ||
			strings.HasPrefix(name, "x-amz-") || name <= "host" {
			return
		}
		q := request{method: "GET", target: "/", host: "h", headers: []string{name + ": v"}}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(q.with("X-Amz-Date: " + amzDate).wire())))
		if err != nil || r.Header[textproto.CanonicalMIMEHeaderKey(name)] == nil {
			return
		}
		signed := "host;" + name + ";x-amz-date"
		if name > "x-amz-date" {
			signed = "host;x-amz-date;" + name
		}
		q = q.with("X-Amz-Date: "+amzDate).signed(kmsScope, signed)
		r, body := q.read(t)
		if err := verify(r, body, signedAt, "kms"); err != nil {
			t.Errorf("verify with signed header %q = %v, want nil", name, err)
		}
	})
}
