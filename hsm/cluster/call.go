package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kmsgate/hsm"
)

// method is a method of [hsm.Token] as far as it matters here.
type method int

const (
	generate method = iota
	generateResident
	importMaterial
	importResident
	send
	receive
	encrypt
	decrypt
	publicKey
	sign
	verify
	generateMAC
	verifyMAC
	encryptAsymmetric
	decryptAsymmetric
	deriveSecret
	encapsulate
	decapsulate
	generateDataKeyPair
	random
	seal
	open
)

// methodRow is what may be done about a method that has failed.
type methodRow struct {
	// repeat: another member may do it again, and nothing of the first is left.
	repeat bool
	// slow: it may take all the time that there is, and none is kept back.
	slow bool
}

// methods leave nothing behind that anybody will ever name, but for those that make
// objects in the token.
var methods = [...]methodRow{
	generate:            {repeat: true, slow: true},
	generateResident:    {slow: true},
	importMaterial:      {repeat: true},
	importResident:      {},
	send:                {repeat: true},
	receive:             {repeat: true},
	encrypt:             {repeat: true},
	decrypt:             {repeat: true},
	publicKey:           {repeat: true},
	sign:                {repeat: true},
	verify:              {repeat: true},
	generateMAC:         {repeat: true},
	verifyMAC:           {repeat: true},
	encryptAsymmetric:   {repeat: true},
	decryptAsymmetric:   {repeat: true},
	deriveSecret:        {repeat: true},
	encapsulate:         {repeat: true},
	decapsulate:         {repeat: true},
	generateDataKeyPair: {repeat: true, slow: true},
	random:              {repeat: true},
	seal:                {repeat: true},
	open:                {repeat: true},
}

// errNowhere says that no member can be asked.
var errNowhere = fmt.Errorf("%w: no token that is configured has the service keys of that generation", hsm.ErrUnavailable)

// call has a member of a set do something: the one that key comes back to, or the
// idlest if key is nil. What fails because a member does not serve, another does
// once; what one cannot do, any other may.
func call[T any](ctx context.Context, c *Token, what method, set uint64, key []byte, do func(context.Context, hsm.Token) (T, error)) (T, error) {
	row := methods[what]
	first, tried := errNowhere, uint64(0)
	for outages := 0; ; {
		m := c.pick(set&^tried, key)
		if m == nil {
			var none T
			return none, first
		}
		tried |= m.bit
		limited, cancel := ctx, context.CancelFunc(func() {})
		if row.repeat && !row.slow && outages == 0 && set&^tried != 0 {
			limited, cancel = keepHalf(ctx)
		}
		out, err := ask(limited, c, m, do)
		cancel()
		if err == nil {
			return out, nil
		}
		unsupported, away := errors.Is(err, hsm.ErrUnsupported), isOutage(err) || errors.Is(err, hsm.ErrBusy)
		if first == errNowhere || !unsupported { //nolint:errorlint // identity
			first = err
		}
		if away {
			outages++
		}
		if !unsupported && !away || away && !row.repeat || outages > 1 || ctx.Err() != nil {
			return out, first
		}
	}
}

// keepHalf leaves half of the time for another try.
func keepHalf(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Until(deadline)/2)
}

// ask asks one member, and takes it out if it does not serve.
func ask[T any](ctx context.Context, c *Token, m *member, do func(context.Context, hsm.Token) (T, error)) (T, error) {
	m.inFlight.Add(1)
	defer m.inFlight.Add(-1)
	out, err := do(ctx, m.Token)
	if err != nil {
		c.noticed(ctx, m, err)
	}
	return out, err
}

// with has a member use a key, wherever it lives.
func with[T any](ctx context.Context, c *Token, what method, k *hsm.Key, do func(context.Context, hsm.Token) (T, error)) (T, error) {
	if k.Residency == hsm.Resident {
		return withResident(ctx, c, k, do)
	}
	return call(ctx, c, what, c.holdersOf(k), k.MaterialID[:], do)
}

// nothing makes a method without a result one for call.
func nothing(do func(context.Context, hsm.Token) error) func(context.Context, hsm.Token) (struct{}, error) {
	return func(ctx context.Context, t hsm.Token) (struct{}, error) { return struct{}{}, do(ctx, t) }
}
