package worker

import (
	"context"
	"crypto"
	"crypto/rsa"
	"reflect"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/hsm/pkcs11"
)

// method is something that one end does for the other: T is what it is done with
// there, A its arguments, R its result.
type method[T, A, R any] struct {
	name string
	// again says that it may be done once more where it is unknown whether it was done:
	// a second time leaves nothing in the token that the first one would not.
	again bool
	do    func(ctx context.Context, t T, a *A) (R, error)
}

// row is a method in a table.
type row[T any] interface {
	called() string
	serve(ctx context.Context, t T, arguments *decoder) (any, error)
}

func (m method[T, A, R]) called() string { return m.name }

func (m method[T, A, R]) serve(ctx context.Context, t T, arguments *decoder) (any, error) {
	var a A
	v := reflect.ValueOf(&a).Elem()
	defer wipe(v)
	arguments.value(v)
	if err := arguments.end(); err != nil {
		return nil, err
	}
	return m.do(ctx, t, &a)
}

// answerOf reads the answer to a call of a method, and clears it.
func (m method[T, A, R]) answerOf(answer []byte) (r R, err error) {
	d := &decoder{b: answer}
	err = d.error()
	if err == nil && !d.bad {
		d.value(reflect.ValueOf(&r).Elem())
	}
	if e := d.end(); e != nil {
		err = e
	}
	clear(answer)
	return r, err
}

// tableOf is a table of methods by their names.
func tableOf[T any](rows ...row[T]) map[string]row[T] {
	table := map[string]row[T]{}
	for _, r := range rows {
		table[r.called()] = r
	}
	return table
}

// nothing is the arguments, or the result, of methods that have none.
type nothing struct{}

// use is what most calls have: for whom, and which key.
type use struct {
	On  hsm.Call
	Key hsm.Key
}

type (
	importsOf struct {
		Store     string
		Spec      keyspec.Spec
		Usage     keyspec.Usage
		Algorithm keyspec.WrappingAlgorithm
	}
	receivesOf struct {
		Store string
		Spec  keyspec.Spec
		Usage keyspec.Usage
	}
	importKey struct {
		On        hsm.Call
		Wrapping  hsm.Key
		Algorithm keyspec.WrappingAlgorithm
		Wrapped   []byte
		Key       hsm.Key
	}
	sendKey struct {
		On      hsm.Call
		Key, To hsm.Key
	}
	receiveKey struct {
		On      hsm.Call
		Through hsm.Key
		Parcel  []byte
		Key     hsm.Key
	}
	encryption struct {
		use
		Plaintext secret
		AAD       []byte
	}
	decryption struct {
		use
		Ciphertext hsm.Ciphertext
		AAD        []byte
	}
	// signing is all that is done with a message or a ciphertext, by an algorithm.
	signing struct {
		use
		Algorithm keyspec.Algorithm
		As        keyspec.MessageType
		Message   secret
		Signature []byte
	}
	agreement struct {
		use
		Peer []byte // or encapsulation
	}
	encapsulated struct {
		Secret        secret
		Encapsulation []byte
	}
	pairOf struct {
		On   hsm.Call
		Spec keyspec.Spec
	}
	pair struct {
		Private secret
		Public  []byte
	}
	drawing struct {
		On hsm.Call
		N  int
	}
	sealing struct {
		On     hsm.Call
		Store  string
		Secret secret
		AAD    []byte
	}
	opening struct {
		On          hsm.Call
		Sealed, AAD []byte
	}
	batch struct {
		On         hsm.Call
		Keys       []hsm.Key
		Generation int32
	}
	tlsSigning struct {
		ID, Public []byte // the public key as SubjectPublicKeyInfo
		Digest     []byte
		Hash       uint
		PSS        bool
		Salt       int
	}
)

// The methods of a token. The worker has an engine for each.
var (
	generate = method[*served, use, hsm.Key]{"Generate", false, func(ctx context.Context, e *served, a *use) (hsm.Key, error) {
		return e.Generate(ctx, a.On, a.Key)
	}}
	imports = method[*served, importsOf, nothing]{"Imports", true, func(_ context.Context, e *served, a *importsOf) (nothing, error) {
		return nothing{}, e.Imports(a.Store, a.Spec, a.Usage, a.Algorithm)
	}}
	importIn = method[*served, importKey, hsm.Key]{"Import", false, func(ctx context.Context, e *served, a *importKey) (hsm.Key, error) {
		return e.Import(ctx, a.On, &a.Wrapping, a.Algorithm, a.Wrapped, a.Key)
	}}
	receives = method[*served, receivesOf, nothing]{"Receives", true, func(_ context.Context, e *served, a *receivesOf) (nothing, error) {
		return nothing{}, e.Receives(a.Store, a.Spec, a.Usage)
	}}
	send = method[*served, sendKey, []byte]{"Send", true, func(ctx context.Context, e *served, a *sendKey) ([]byte, error) {
		return e.Send(ctx, a.On, &a.Key, &a.To)
	}}
	receive = method[*served, receiveKey, hsm.Key]{"Receive", false, func(ctx context.Context, e *served, a *receiveKey) (hsm.Key, error) {
		return e.Receive(ctx, a.On, &a.Through, a.Parcel, a.Key)
	}}
	encrypt = method[*served, encryption, hsm.Ciphertext]{"Encrypt", true, func(ctx context.Context, e *served, a *encryption) (hsm.Ciphertext, error) {
		return e.Encrypt(ctx, a.On, &a.Key, a.Plaintext, a.AAD)
	}}
	decrypt = method[*served, decryption, secret]{"Decrypt", true, func(ctx context.Context, e *served, a *decryption) (secret, error) {
		return e.Decrypt(ctx, a.On, &a.Key, a.Ciphertext, a.AAD)
	}}
	publicKey = method[*served, use, []byte]{"PublicKey", true, func(ctx context.Context, e *served, a *use) ([]byte, error) {
		return e.PublicKey(ctx, a.On, &a.Key)
	}}
	sign = method[*served, signing, []byte]{"Sign", true, func(ctx context.Context, e *served, a *signing) ([]byte, error) {
		return e.Sign(ctx, a.On, &a.Key, a.Algorithm, a.As, a.Message)
	}}
	verify = method[*served, signing, nothing]{"Verify", true, func(ctx context.Context, e *served, a *signing) (nothing, error) {
		return nothing{}, e.Verify(ctx, a.On, &a.Key, a.Algorithm, a.As, a.Message, a.Signature)
	}}
	generateMAC = method[*served, signing, []byte]{"GenerateMAC", true, func(ctx context.Context, e *served, a *signing) ([]byte, error) {
		return e.GenerateMAC(ctx, a.On, &a.Key, a.Algorithm, a.Message)
	}}
	verifyMAC = method[*served, signing, nothing]{"VerifyMAC", true, func(ctx context.Context, e *served, a *signing) (nothing, error) {
		return nothing{}, e.VerifyMAC(ctx, a.On, &a.Key, a.Algorithm, a.Message, a.Signature)
	}}
	encryptAsymmetric = method[*served, signing, []byte]{"EncryptAsymmetric", true, func(ctx context.Context, e *served, a *signing) ([]byte, error) {
		return e.EncryptAsymmetric(ctx, a.On, &a.Key, a.Algorithm, a.Message)
	}}
	decryptAsymmetric = method[*served, signing, secret]{"DecryptAsymmetric", true, func(ctx context.Context, e *served, a *signing) (secret, error) {
		return e.DecryptAsymmetric(ctx, a.On, &a.Key, a.Algorithm, a.Message)
	}}
	deriveSecret = method[*served, agreement, secret]{"DeriveSecret", true, func(ctx context.Context, e *served, a *agreement) (secret, error) {
		return e.DeriveSecret(ctx, a.On, &a.Key, a.Peer)
	}}
	encapsulate = method[*served, use, encapsulated]{"Encapsulate", true, func(ctx context.Context, e *served, a *use) (r encapsulated, err error) {
		r.Secret, r.Encapsulation, err = e.Encapsulate(ctx, a.On, &a.Key)
		return r, err
	}}
	decapsulate = method[*served, agreement, secret]{"Decapsulate", true, func(ctx context.Context, e *served, a *agreement) (secret, error) {
		return e.Decapsulate(ctx, a.On, &a.Key, a.Peer)
	}}
	generateDataKeyPair = method[*served, pairOf, pair]{"GenerateDataKeyPair", true, func(ctx context.Context, e *served, a *pairOf) (pair, error) {
		made, err := e.GenerateDataKeyPair(ctx, a.On, a.Spec)
		return pair{made.Private, made.Public}, err
	}}
	destroy = method[*served, use, nothing]{"Destroy", true, func(ctx context.Context, e *served, a *use) (nothing, error) {
		return nothing{}, e.Destroy(ctx, a.On, &a.Key)
	}}
	random = method[*served, drawing, secret]{"Random", true, func(ctx context.Context, e *served, a *drawing) (secret, error) {
		return e.Random(ctx, a.On, a.N)
	}}
	seal = method[*served, sealing, []byte]{"Seal", true, func(ctx context.Context, e *served, a *sealing) ([]byte, error) {
		return e.Seal(ctx, a.On, a.Store, a.Secret, a.AAD)
	}}
	open = method[*served, opening, secret]{"Open", true, func(ctx context.Context, e *served, a *opening) (secret, error) {
		return e.Open(ctx, a.On, a.Sealed, a.AAD)
	}}
	check = method[*served, nothing, nothing]{"Check", true, func(ctx context.Context, e *served, _ *nothing) (nothing, error) {
		return nothing{}, e.Check(ctx)
	}}
)

// The methods of an engine beyond those of a token.
var (
	createServiceKeys = method[*served, []hsm.ServiceKey, []hsm.ServiceKey]{"CreateServiceKeys", false, func(ctx context.Context, e *served, a *[]hsm.ServiceKey) ([]hsm.ServiceKey, error) {
		return e.CreateServiceKeys(ctx, *a)
	}}
	destroyServiceKeys = method[*served, []hsm.ServiceKey, nothing]{"DestroyServiceKeys", false, func(ctx context.Context, e *served, a *[]hsm.ServiceKey) (nothing, error) {
		return nothing{}, e.DestroyServiceKeys(ctx, *a)
	}}
	learnServiceKeys = method[*served, string, nothing]{"LearnServiceKeys", true, func(ctx context.Context, e *served, store *string) (nothing, error) {
		return nothing{}, e.LearnServiceKeys(ctx, *store)
	}}
	rewrapAll = method[*served, batch, []pkcs11.Batched]{"RewrapAll", true, func(ctx context.Context, e *served, a *batch) ([]pkcs11.Batched, error) {
		return e.RewrapAll(ctx, a.On, a.Keys, a.Generation)
	}}
	proveAll = method[*served, batch, []pkcs11.Batched]{"ProveAll", true, func(ctx context.Context, e *served, a *batch) ([]pkcs11.Batched, error) {
		return e.ProveAll(ctx, a.On, a.Keys)
	}}
	stats = method[*served, nothing, pkcs11.Stats]{"Stats", true, func(_ context.Context, e *served, _ *nothing) (pkcs11.Stats, error) {
		return e.Stats(), nil
	}}
	fingerprint = method[*served, nothing, pkcs11.Fingerprint]{"Fingerprint", true, func(ctx context.Context, e *served, _ *nothing) (pkcs11.Fingerprint, error) {
		return e.Fingerprint(ctx)
	}}
	signTLS = method[*served, tlsSigning, []byte]{"SignTLS", true, signOnce}
)

// engineMethods are all that the gateway may ask of an engine.
func engineMethods() map[string]row[*served] {
	return tableOf[*served](
		generate, imports, receives, importIn, send, receive, encrypt, decrypt, publicKey, sign, verify, generateMAC, verifyMAC,
		encryptAsymmetric, decryptAsymmetric, deriveSecret, encapsulate, decapsulate, generateDataKeyPair, destroy,
		random, seal, open, check, createServiceKeys, destroyServiceKeys, learnServiceKeys, rewrapAll, proveAll, stats, fingerprint, signTLS,
	)
}

// options are the choices of a signature as Go has them.
func (a *tlsSigning) options() crypto.SignerOpts {
	if a.PSS {
		return &rsa.PSSOptions{SaltLength: a.Salt, Hash: crypto.Hash(a.Hash)}
	}
	return crypto.Hash(a.Hash)
}
