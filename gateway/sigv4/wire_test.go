package sigv4_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"kmsgate/gateway/sigv4"
)

// serve answers 200 to what verifies and 400 with the refusal to the rest, and
// reads the body only when the headers pass.
func serve(w http.ResponseWriter, r *http.Request) {
	s, err := sigv4.ParseHeader(r)
	if err == nil {
		err = s.CheckScope(signedAt, isUSEast1, "kms")
	}
	if err == nil {
		var body []byte
		if body, err = io.ReadAll(r.Body); err == nil {
			s.SetBody(body)
			err = s.Verify(sigv4.DeriveKey([]byte(secret), s.Date, s.Region, s.Service))
		}
	}
	if err != nil {
		w.Header().Set("Connection", "close")
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// send sends the bytes given and returns all that comes back.
func send(t *testing.T, server *httptest.Server, wire string) string {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, wire); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	var heads strings.Builder
	for {
		line, err := reader.ReadString('\n')
		heads.WriteString(line)
		if err != nil || line == "\r\n" && !strings.HasSuffix(heads.String(), "100 Continue\r\n\r\n") {
			rest, _ := reader.Peek(reader.Buffered()) // a short answer comes in one piece
			return heads.String() + string(rest)
		}
	}
}

func TestServerSeesWhatWasSigned(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(serve))
	t.Cleanup(server.Close)
	q := kmsRequest()
	full := q.signed(kmsScope, "content-length;"+kmsSigned)
	chunked := func(q request) string {
		body := q.body
		q.body = ""
		return strings.TrimSuffix(q.with("Transfer-Encoding: chunked").wire(), "\r\n") + "\r\n13\r\n" + body + "\r\n0\r\n\r\n"
	}
	for _, c := range []struct {
		name, wire, status, says string
	}{
		{"as signed", full.wire(), "200 OK", ""},
		{"chunked, length not signed", chunked(q.signed(kmsScope, kmsSigned)), "200 OK", ""},
		{"chunked, length signed", chunked(full), "400 Bad Request", "content-length is signed but did not arrive"},
		{"no body", q.sending("").signed(kmsScope, kmsSigned).wire(), "200 OK", ""},
		{"absolute form", full.to("http://evil:1/").wire(), "400 Bad Request", "must be an absolute path"},
		{"two hosts", full.with("Host: evil").wire(), "400 Bad Request", ""},
		{"NUL in a header", full.with("Zebra: a\x00b").wire(), "400 Bad Request", ""},
		{"CR in a header", full.with("Zebra: a\rb").wire(), "400 Bad Request", ""},
		{"blank in a header's name", full.with("X-Amz-Target : TrentService.Decrypt").wire(), "400 Bad Request", ""},
		{"the same header in another case", full.with("x-aMZ-target: TrentService.Decrypt").wire(), "400 Bad Request", "'X-Amz-Target' must not occur more than once"},
		{"length as another text", strings.Replace(full.wire(), "Content-Length: 19", "Content-Length: 019", 1), "400 Bad Request", "signature we calculated does not match"},
		{"good and expecting 100", full.with("Expect: 100-continue").wire(), "100 Continue", "HTTP/1.1 200 OK"},
		{
			"bad and expecting 100", strings.TrimSuffix(q.with("Expect: 100-continue").wire(), q.body),
			"400 Bad Request", "Missing Authentication Token",
		},
		{
			"expired and expecting 100",
			strings.ReplaceAll(strings.TrimSuffix(full.with("Expect: 100-continue").wire(), q.body), amzDate, "20150830T000000Z"),
			"400 Bad Request", "Signature expired",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			answer := send(t, server, c.wire)
			if !strings.HasPrefix(answer, "HTTP/1.1 "+c.status) || !strings.Contains(answer, c.says) {
				t.Errorf("answer to %q = %q, want %s … %s", c.wire, answer, c.status, c.says)
			}
		})
	}
}

func TestServerVerifiesHTTP2(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(serve))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	client := server.Client()
	for _, host := range []string{"", "kms.example.com", "kms.example.com:443"} {
		const body = `{"KeyId":"a"}`
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		r.Header.Set("X-Amz-Target", "TrentService.Encrypt")
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
		sign(t.Context(), t, r, body)
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.ProtoMajor != 2 || response.StatusCode != http.StatusOK {
			t.Errorf("answer for host %q = %s %s %q, want HTTP/2.0 200 OK", host, response.Proto, response.Status, answer)
		}
	}
}

func sign(ctx context.Context, t *testing.T, r *http.Request, body string) {
	t.Helper()
	creds := aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secret}
	if err := v4.NewSigner().SignHTTP(ctx, creds, r, hexSum(body), "kms", "us-east-1", signedAt); err != nil {
		t.Fatal(err)
	}
}
