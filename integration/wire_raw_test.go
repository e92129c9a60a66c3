package integration_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// dial opens a connection to the gateway, with a deadline for all that follows.
func (i *instance) dial(t testing.TB) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(i.endpoint, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // it may be closed already
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// text is a request as it goes over the wire.
func text(t testing.TB, r *http.Request) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// exchange writes bytes and reads one response; end closes the side that writes.
func (i *instance) exchange(t testing.TB, request string, end bool) answer {
	t.Helper()
	conn := i.dial(t)
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	if end {
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no response: %v", err)
	}
	a, err := read(response)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestRequestsOnTheWire sends what no client library lets one send.
func TestRequestsOnTheWire(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	body := []byte(`{"KeyId":"` + key + `"}`)
	signed := func() string { return text(t, g.sign(t, own, "DisableKey", body)) }
	host := strings.TrimPrefix(g.endpoint, "http://")
	const invalid = "InvalidSignatureException"
	var shots []shot
	for _, tc := range []struct {
		name    string
		request func() string
		code    string
		end     bool // of what is written
		account string
	}{
		{"body cut off", func() string { s := signed(); return s[:len(s)-5] }, "SerializationException", true, ""},
		{"chunks cut off", func() string {
			r := g.sign(t, own, "DisableKey", body, func(r *http.Request) { r.ContentLength = -1 })
			s := text(t, r)
			return s[:len(s)-7]
		}, "SerializationException", true, ""},
		{"two authorizations", func() string {
			s := signed()
			from := strings.Index(s, "Authorization: ")
			line, _, _ := strings.Cut(s[from:], "\r\n")
			return s[:from] + line + "\r\n" + s[from:]
		}, invalid, false, ""},
		{"the same target twice", func() string {
			return strings.Replace(signed(), "X-Amz-Target: ", "X-Amz-Target: TrentService.DisableKey\r\nX-Amz-Target: ", 1)
		}, invalid, false, ""},
		{"absolute form of the target", func() string { return strings.Replace(signed(), "POST / ", "POST http://"+host+"/ ", 1) }, invalid, false, ""},
		{"another host", func() string { return strings.Replace(signed(), "Host: "+host, "Host: kms.us-east-1.amazonaws.com", 1) }, invalid, false, ""},
		{"a longer body", func() string {
			s := strings.Replace(signed(), fmt.Sprintf("Content-Length: %d", len(body)), fmt.Sprintf("Content-Length: %d", len(body)+1), 1)
			return s + " "
		}, invalid, false, ""},
	} {
		<-pace().C
		a := g.exchange(t, tc.request(), tc.end)
		if got := a.object(t); a.status != http.StatusBadRequest || got["__type"] != tc.code {
			t.Errorf("%s: %d %s, want 400 %s", tc.name, a.status, a.body, tc.code)
		}
		shots = append(shots, shot{tc.name, a, "DisableKey", tc.code, tc.account})
	}
	g.wantRecorded(t, shots)
	// What is no HTTP is refused before there is a request.
	for name, request := range map[string]string{
		"NUL in a header":      strings.Replace(signed(), "User-Agent: ", "User-Agent: \x00", 1),
		"a bare CR":            strings.Replace(signed(), "User-Agent: ", "User-Agent: \r", 1),
		"two lengths":          strings.Replace(signed(), "Content-Length: ", "Content-Length: 1\r\nContent-Length: ", 1),
		"a space before colon": strings.Replace(signed(), "X-Amz-Date:", "X-Amz-Date :", 1),
		"two hosts":            strings.Replace(signed(), "Host: ", "Host: a\r\nHost: ", 1),
		"an endless header":    strings.Replace(signed(), "User-Agent: ", "User-Agent: "+strings.Repeat("x", 100_000), 1),
		"broken escape":        strings.Replace(signed(), "POST / ", "POST /%zz ", 1),
	} {
		conn := g.dial(t)
		_, _ = io.WriteString(conn, request) // the server may close first
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			continue // closed without a word
		}
		if a, _ := read(response); a.status < 400 || a.status >= 500 {
			t.Errorf("%s: %d %s, want a refusal", name, a.status, a.body)
		}
	}
	if got := g.mustCall(t, own, "DescribeKey", m{"KeyId": key})["KeyMetadata"].(m)["KeyState"]; got != "Enabled" {
		t.Errorf("KeyState %v: a request that was refused has changed it", got)
	}
	// The Host with a default port or without it is one host to a signature; here
	// it has a port of its own, and nothing changes that.
	if a := g.exchange(t, text(t, g.sign(t, own, "DescribeKey", body)), false); a.status != http.StatusOK {
		t.Errorf("the same request, unchanged: %d %s, want success", a.status, a.body)
	}
}

// TestExpectContinue waits for the word to go on before the body: it comes only to
// those whose headers are in order.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	body := []byte(`{"KeyId":"` + key + `"}`)
	ask := func(edit func(*http.Request)) (status int, rest *bufio.Reader, conn net.Conn) {
		t.Helper()
		r := g.sign(t, own, "DescribeKey", body)
		r.Header.Set("Expect", "100-continue")
		edit(r)
		head, _, _ := strings.Cut(text(t, r), "\r\n\r\n")
		<-pace().C
		c := g.dial(t)
		if _, err := io.WriteString(c, head+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		rest = bufio.NewReader(c)
		line, err := rest.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscanf(line, "HTTP/1.1 %d", &status); err != nil {
			t.Fatalf("status line %q: %v", line, err)
		}
		return status, rest, c
	}
	for name, edit := range map[string]func(*http.Request){
		"no signature":       func(r *http.Request) { r.Header.Del("Authorization") },
		"unknown access key": authorization(g.keys[own].accessKey, "AKIA0000000000000000"),
		"another region":     authorization("/us-east-1/", "/eu-west-1/"),
		"too old":            setHeader("X-Amz-Date", "20200101T000000Z"),
		"unknown operation":  setHeader("X-Amz-Target", "TrentService.Nothing"),
		"too long": func(r *http.Request) {
			r.ContentLength = 1<<20 + 1
			r.Body = io.NopCloser(bytes.NewReader(make([]byte, 1<<20+1)))
		},
	} {
		status, _, _ := ask(edit)
		if status < 400 || status >= 500 {
			t.Errorf("%s: the first word is %d, want a refusal", name, status)
		}
	}
	status, rest, conn := ask(func(*http.Request) {})
	if status != http.StatusContinue {
		t.Fatalf("a good request: the first word is %d, want 100", status)
	}
	if _, err := rest.ReadString('\n'); err != nil { // the empty line
		t.Fatal(err)
	}
	if _, err := conn.Write(body); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(rest, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := read(response); err != nil || a.status != http.StatusOK {
		t.Errorf("after the body: %d %s, %v; want success", a.status, a.body, err)
	}
}
