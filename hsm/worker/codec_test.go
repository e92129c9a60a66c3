package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/hsm/pkcs11"
)

func encoded(v any) []byte {
	var e encoder
	e.value(reflect.ValueOf(v))
	return e.b
}

// TestWhatCrossesIsTheSame has values of all kinds that cross go there and back.
func TestWhatCrossesIsTheSame(t *testing.T) {
	key := hsm.Key{Store: "s", KeyID: "k", MaterialID: hsm.MaterialID{1, 200}, Spec: keyspec.RSA2048, Generation: -3, Blob: []byte{0, 1}, PublicKey: []byte{}}
	for _, v := range []any{
		encryption{use{client, key}, secret("plain"), nil},
		pkcs11.Config{Module: "m", ReturnCodes: map[uint]string{1 << 40: "busy", 2: "pin"}, CallTimeout: time.Hour, WrapMechanisms: []uint{1}, Resident: []string{"a", ""}, IV: 2, Strict: true},
		pkcs11.Stats{Serial: "1", AwaySince: time.Unix(1, 5), Stuck: -1, Hits: 1 << 63},
		[]hsm.ServiceKey{{Kind: hsm.DomainKey, Generation: 1 << 30}, {}},
		"", uint64(7), true,
		nothing{},
	} {
		back := reflect.New(reflect.TypeOf(v))
		d := &decoder{b: encoded(v)}
		d.value(back.Elem())
		if err := d.end(); err != nil {
			t.Errorf("%T: %v", v, err)
		}
		if diff := cmp.Diff(v, back.Elem().Interface(), cmp.Exporter(func(reflect.Type) bool { return true })); diff != "" {
			t.Errorf("%T (-sent +got):\n%s", v, diff)
		}
	}
}

// sentinelsOf are the names of the errors that package hsm declares.
func sentinelsOf(t *testing.T) (names []string) {
	file, err := parser.ParseFile(token.NewFileSet(), "../hsm.go", nil, 0)
	must(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Err") {
			names = append(names, spec.Names[0].Name)
		}
		return true
	})
	return names
}

func TestErrorsCrossAsWhatTheyAre(t *testing.T) {
	if names := sentinelsOf(t); len(names) != len(sentinels)-2 {
		t.Errorf("package hsm has the errors %v; %d cross", names, len(sentinels)-2)
	}
	for _, sentinel := range sentinels {
		err := fmt.Errorf("around it: %w", fmt.Errorf("%w: %w", hsm.ErrUnavailable, sentinel))
		var e encoder
		e.error(err)
		d := &decoder{b: e.b}
		back := d.error()
		if d.end() != nil || !errors.Is(back, sentinel) || !errors.Is(back, hsm.ErrUnavailable) || back.Error() != err.Error() {
			t.Errorf("%v came as %v", err, back)
		}
		for _, other := range sentinels {
			if errors.Is(back, other) != errors.Is(err, other) {
				t.Errorf("%v came as %v: is %v: %t", err, back, other, errors.Is(back, other))
			}
		}
	}
}

func TestEveryMethodOfATokenIsInTheTable(t *testing.T) {
	table, all := engineMethods(), reflect.TypeFor[hsm.Token]()
	for i := range all.NumMethod() {
		if _, ok := table[all.Method(i).Name]; !ok {
			t.Errorf("%s is missing", all.Method(i).Name)
		}
	}
}

func TestSecretsAreCleared(t *testing.T) {
	plain := []byte("a secret that nobody else may see")
	var e encoder
	e.bytes(plain)
	early := e.b[:cap(e.b)]
	e.bytes(make([]byte, len(early)))
	if bytes.Contains(early, plain) || !bytes.Contains(e.b, plain) {
		t.Error("an encoder left bytes behind where it had been before")
	}
	a := encryption{Plaintext: plain}
	wipe(reflect.ValueOf(&a).Elem())
	if !bytes.Equal(plain, make([]byte, len(plain))) {
		t.Error("arguments were not cleared")
	}
}

// noServer answers nothing.
type noServer struct{}

func (noServer) request(context.Context, string, uint64, *decoder) (any, error) {
	return nil, errMalformed
}
func (noServer) notice(d *decoder) { d.fail() }

func TestMalformedFramesEndTheConnection(t *testing.T) {
	frames := map[string][]byte{
		"empty": {0, 0, 0, 0}, "too large": {255, 255, 255, 255}, "of no kind": {0, 0, 0, 1, 99},
		"request without a method": {0, 0, 0, 2, kindRequest, 1}, "unknown method": {0, 0, 0, 6, kindRequest, 1, 1, 'x', 0, 0},
		"notice": {0, 0, 0, 1, kindNotice}, "answer without an id": {0, 0, 0, 1, kindAnswer}, "cancel with a tail": {0, 0, 0, 3, kindCancel, 1, 1},
	}
	for name, frame := range frames {
		t.Run(name, func(t *testing.T) {
			ours, theirs, err := socketPair()
			must(t, err)
			defer theirs.Close()
			p := newPeer(ours, noServer{})
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				p.read()
			}()
			_, err = theirs.Write(frame)
			must(t, err)
			<-p.ctx.Done()
			<-ended
			if err := context.Cause(p.ctx); !errors.Is(err, errMalformed) {
				t.Errorf("ended by %v", err)
			}
			if _, err := p.call(t.Context(), "x", 1, nothing{}); !errors.Is(err, errLost) {
				t.Errorf("call afterwards = %v", err)
			}
		})
	}
}

// TestFramesInPieces has frames come byte by byte, small ones and one that is larger
// than the buffer.
func TestFramesInPieces(t *testing.T) {
	ours, theirs, err := socketPair()
	must(t, err)
	conn, err := net.FileConn(theirs)
	must(t, err)
	must(t, theirs.Close())
	near, far := newPeer(ours, noServer{}), newPeer(conn, echo{})
	done := make(chan struct{}, 2)
	for _, p := range []*peer{near, far} {
		go func() { p.read(); done <- struct{}{} }()
	}
	for _, size := range []int{0, 1, 1000, 64 << 10, 1 << 20} {
		sent := bytes.Repeat([]byte{7}, size)
		answer, err := near.call(t.Context(), "echo", 1, sent)
		must(t, err)
		d := &decoder{b: answer}
		must(t, d.error())
		var got []byte
		d.value(reflect.ValueOf(&got).Elem())
		if d.end() != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes came back as %d", size, len(got))
		}
	}
	if _, err := near.call(t.Context(), "echo", 1, make([]byte, maxFrame)); !errors.Is(err, hsm.ErrUnsupported) {
		t.Errorf("a call that is too large = %v", err)
	}
	near.fail(io.EOF)
	<-done
	<-done
}

// echo gives back what it gets.
type echo struct{ noServer }

func (echo) request(_ context.Context, _ string, _ uint64, d *decoder) (any, error) {
	var b []byte
	d.value(reflect.ValueOf(&b).Elem())
	return b, d.end()
}

func FuzzDecoder(f *testing.F) {
	f.Add(encoded(batch{On: client, Keys: []hsm.Key{{}}}))
	f.Add(encoded(pkcs11.Config{ReturnCodes: map[uint]string{1: "x"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []any{new(batch), new(pkcs11.Config), new([]pkcs11.Batched), new(signing)} {
			d := &decoder{b: b}
			d.value(reflect.ValueOf(v).Elem())
			_ = d.end()
		}
	})
}
