package gateway

import (
	"context"

	"kmsgate/gateway/identity"
)

// sts makes a handler of a function of package identity.
func sts[In, Out any](f func(context.Context, identity.Caller, *In) (*Out, error)) func(*call, *In) (work[Out], error) {
	return func(c *call, in *In) (work[Out], error) {
		return work[Out]{do: func(ctx context.Context) (*Out, error) { return f(ctx, c.caller, in) }}, nil
	}
}
