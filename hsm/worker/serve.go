package worker

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
)

// served is a token in the worker.
type served struct {
	*pkcs11.Engine

	mu      sync.Mutex
	signers map[string]crypto.Signer // by CKA_ID and public key
}

// maxSigners bounds the signers that are kept; a gateway has one certificate.
const maxSigners = 16

// signOnce signs with an object in the token, which is found and proved at first.
func signOnce(ctx context.Context, s *served, a *tlsSigning) ([]byte, error) {
	signer, err := s.signer(ctx, a)
	if err != nil {
		return nil, err
	}
	return signer.Sign(nil, a.Digest, a.options())
}

func (s *served) signer(ctx context.Context, a *tlsSigning) (crypto.Signer, error) {
	name := fmt.Sprintf("%x/%x", a.ID, a.Public)
	s.mu.Lock()
	signer, ok := s.signers[name]
	s.mu.Unlock()
	if ok {
		return signer, nil
	}
	public, err := x509.ParsePKIXPublicKey(a.Public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hsm.ErrUnsupported, err)
	}
	if signer, err = s.Signer(ctx, a.ID, public); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signers == nil || len(s.signers) >= maxSigners {
		s.signers = map[string]crypto.Signer{}
	}
	s.signers[name] = signer
	return signer, nil
}

// child is what the worker process does: it has one module and the engines of its
// tokens, by the numbers that the gateway gives them.
type child struct {
	peer   *peer
	logger *slog.Logger
	ofEach map[string]row[*served]
	ofOwn  map[string]row[seat]

	mu      sync.Mutex
	module  *pkcs11.Module
	engines map[uint64]*served
}

// seat is a token's place in the worker, whether it is open or not.
type seat struct {
	child *child
	token uint64
}

// Serve is the worker process: it serves the gateway on a connection that it has
// inherited as a file, until that ends. The process should end then, with all that
// may still hang in the library.
func Serve(file *os.File, logger *slog.Logger) error {
	conn, err := net.FileConn(file)
	if err != nil {
		return fmt.Errorf("worker: the connection to the gateway: %w", err)
	}
	if err := file.Close(); err != nil {
		return err
	}
	c := &child{
		logger: logger, engines: map[uint64]*served{},
		ofEach: engineMethods(), ofOwn: tableOf[seat](openToken, closeToken),
	}
	c.peer = newPeer(conn, c)
	err = c.peer.readFrames()
	c.peer.fail(err)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *child) request(ctx context.Context, method string, token uint64, arguments *decoder) (any, error) {
	if r, ok := c.ofOwn[method]; ok {
		return r.serve(ctx, seat{c, token}, arguments)
	}
	r, ok := c.ofEach[method]
	if !ok {
		return nil, errMalformed
	}
	c.mu.Lock()
	engine := c.engines[token]
	c.mu.Unlock()
	if engine == nil {
		return nil, fmt.Errorf("%w: it is not open in the worker", hsm.ErrUnavailable)
	}
	return r.serve(ctx, engine, arguments)
}

// notice: the gateway sends none.
func (c *child) notice(body *decoder) { body.fail() }

// opened is how a token is opened: what of its configuration is data, and whether the
// gateway finds service keys.
type opened struct {
	Config pkcs11.Config
	Finds  bool
}

var (
	openToken = method[seat, opened, pkcs11.Stats]{"OpenToken", false, func(ctx context.Context, s seat, a *opened) (pkcs11.Stats, error) {
		return s.open(ctx, a)
	}}
	closeToken = method[seat, nothing, nothing]{"CloseToken", false, func(_ context.Context, s seat, _ *nothing) (nothing, error) {
		return nothing{}, s.close()
	}}
)

func (s seat) open(ctx context.Context, a *opened) (pkcs11.Stats, error) {
	cfg := a.Config
	cfg.PIN, cfg.Marks, cfg.Logger, cfg.Observe = s.pin, s, s.child.logger, s.observe
	if a.Finds {
		cfg.FindServiceKeys = s.findServiceKeys
	}
	s.child.mu.Lock()
	if s.child.module == nil {
		s.child.module = pkcs11.NewModule(cfg.Module, cfg.InitArguments)
	}
	module := s.child.module
	s.child.mu.Unlock()
	engine, err := module.Open(ctx, cfg)
	if err != nil {
		return pkcs11.Stats{}, err
	}
	s.child.mu.Lock()
	defer s.child.mu.Unlock()
	s.child.engines[s.token] = &served{Engine: engine}
	return engine.Stats(), nil
}

func (s seat) close() error {
	s.child.mu.Lock()
	engine := s.child.engines[s.token]
	delete(s.child.engines, s.token)
	s.child.mu.Unlock()
	if engine == nil {
		return nil
	}
	return engine.Close()
}

// observe tells the gateway of a call, with the next answer.
func (s seat) observe(mechanism, class string, d time.Duration) {
	var e encoder
	e.room(96)
	e.b = append(e.b, kindNotice)
	e.uint(s.token)
	e.string(mechanism)
	e.string(class)
	e.int(int64(d))
	s.child.peer.queue(&e)
}

// askBack calls a method of the gateway's.
func askBack[A, R any](ctx context.Context, s seat, m method[*Token, A, R], arguments A) (r R, err error) {
	answer, err := s.child.peer.call(ctx, m.name, s.token, arguments)
	if err != nil {
		return r, err
	}
	return m.answerOf(answer)
}

// pinTimeout bounds the reading of a PIN file.
const pinTimeout = 5 * time.Second

func (s seat) pin() ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), pinTimeout)
	defer cancel()
	return askBack(ctx, s, readPIN, nothing{})
}

func (s seat) findServiceKeys(ctx context.Context, store string) ([]hsm.ServiceKey, error) {
	return askBack(ctx, s, findServiceKeys, store)
}

// LoginRefused asks the gateway. See [hsm.LoginMarks].
func (s seat) LoginRefused(ctx context.Context, serial string) (bool, error) {
	return askBack(ctx, s, loginRefused, serial)
}

// MarkLoginRefused has the gateway set the mark. See [hsm.LoginMarks].
func (s seat) MarkLoginRefused(ctx context.Context, serial string) error {
	_, err := askBack(ctx, s, markLoginRefused, serial)
	return err
}

// Exclusively has the gateway keep everybody else out meanwhile. See [hsm.LoginMarks].
func (s seat) Exclusively(ctx context.Context, name string, fn func(context.Context) error) error {
	turn, err := askBack(ctx, s, takeTurn, name)
	if err != nil {
		return err
	}
	err = fn(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pinTimeout)
	defer cancel()
	if _, e := askBack(ctx, s, endTurn, turn); err == nil {
		err = e
	}
	return err
}
