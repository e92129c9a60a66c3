package main

import (
	"net"
	"testing"
)

func TestBoundListener(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := boundListener(inner, 1)
	accepted := make(chan net.Conn)
	ended := make(chan error, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- conn
		}
	}()
	for range 2 { // the second waits in the system's queue
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
	}
	first := <-accepted
	select {
	case <-accepted:
		t.Fatal("a second connection was accepted beside the first, want one at a time")
	default:
	}
	_ = first.Close()
	_ = first.Close() // gives its place back once
	second := <-accepted
	if got := len(l.(*boundedListener).places); got != 1 {
		t.Errorf("%d places are taken, want 1", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
	if err := <-ended; err == nil {
		t.Error("Accept after Close succeeded")
	}
}
