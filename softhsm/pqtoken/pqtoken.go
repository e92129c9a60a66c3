// Package pqtoken is a PKCS#11 v3.2 token with ML-DSA and ML-KEM for tests: of
// the tokens that distributions ship none has them. It is SoftHSM, and beside it
// post-quantum keys that a server in the test process has; a module that is
// compiled for it sends that server what concerns them.
//
// It follows the standard where the standard is clear and is strict where that
// leaves a choice: usages are off unless a template turns them on, attributes
// that do not fit are refused, and nothing sensitive is read. It lacks what
// nobody here uses: HashML-DSA, signing in parts, copies of objects and private
// keys from their expanded form.
//
// It is not for production, and nothing but tests may import it: keys are in
// memory and gone with [Token.Close].
package pqtoken

import (
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"kmsgate/softhsm"
)

//go:embed module
var moduleSource embed.FS

// Config says how a token is. The zero value is a good one.
type Config struct {
	// Wraps lets private keys be wrapped, as a PrivateKeyInfo that holds the
	// seed. Without it they can only live in the token.
	Wraps bool
	// ExternalMu adds CKM_ML_DSA_EXTERNAL_MU: signatures of a message representative
	// of 64 bytes. v3.2 has no such mechanism; this is the one with which the
	// standard's next version will have it.
	ExternalMu bool
}

// Token is a module and its server. Processes that load the module have the
// SoftHSM token that SOFTHSM2_CONF names, and share the post-quantum token
// objects of a slot. All methods are safe for concurrent use.
type Token struct {
	Module string // path

	dir      string // of the socket
	listener net.Listener
	store    *store
	serving  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	clients map[net.Conn]struct{}
}

// New compiles the module into dir, with the C compiler that cgo needs too, and
// starts the server. The caller closes it.
func New(dir string, c Config) (*Token, error) {
	behind, err := softhsm.Find()
	if err != nil {
		return nil, err
	}
	// A socket's path is short, and dir may be long.
	socketDir, err := os.MkdirTemp("", "pqtoken-")
	if err != nil {
		return nil, fmt.Errorf("pqtoken: %w", err)
	}
	t := &Token{dir: socketDir, store: newStore(c), clients: map[net.Conn]struct{}{}}
	socket := filepath.Join(socketDir, "socket")
	if t.Module, err = compile(dir, behind, socket); err == nil {
		t.listener, err = net.Listen("unix", socket)
	}
	if err != nil {
		_ = os.RemoveAll(socketDir) // it is empty
		return nil, fmt.Errorf("pqtoken: %w", err)
	}
	t.serving.Go(t.accept)
	return t, nil
}

// compile makes the module.
func compile(dir, behind, socket string) (path string, err error) {
	files, err := moduleSource.ReadDir("module")
	if err != nil {
		return "", err
	}
	for _, f := range files {
		text, err := moduleSource.ReadFile("module/" + f.Name())
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name()), text, 0o600); err != nil {
			return "", err
		}
	}
	path = filepath.Join(dir, "pqtoken.so")
	cc := exec.Command("cc", "-std=gnu11", "-shared", "-fPIC", "-O1", "-w", "-D_GNU_SOURCE",
		fmt.Sprintf("-DREAL_MODULE=%q", behind), fmt.Sprintf("-DSOCKET=%q", socket),
		"-o", path, filepath.Join(dir, "module.c"), "-ldl", "-lpthread")
	if output, err := cc.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the module: %w: %s", err, output)
	}
	return path, nil
}

// accept serves each process that initialises the module.
func (t *Token) accept() {
	for {
		conn, err := t.listener.Accept()
		if err != nil {
			return // closed
		}
		t.mu.Lock()
		if t.closed {
			t.mu.Unlock()
			_ = conn.Close() // nothing was written
			return
		}
		t.clients[conn] = struct{}{}
		t.mu.Unlock()
		t.serving.Go(func() { t.serve(conn) })
	}
}

func (t *Token) serve(conn net.Conn) {
	t.store.serve(conn)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.clients, conn)
	_ = conn.Close() // all was written
}

// Close ends the server and loses all its keys. Modules in use say from then on
// that their device is broken. Closing it again does nothing.
func (t *Token) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	err := t.listener.Close()
	for conn := range t.clients {
		err = errors.Join(err, conn.Close())
	}
	t.mu.Unlock()
	t.serving.Wait()
	return errors.Join(err, os.RemoveAll(t.dir))
}
