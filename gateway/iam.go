package gateway

import (
	"context"
	"reflect"

	"kmsgate/gateway/identity"
	"kmsgate/metadata"
)

// iam makes a handler of a function of package identity.
func iam[In, Out any](f func(*identity.Request, *In) (identity.Work[Out], error)) func(*call, *In) (work[Out], error) {
	return func(c *call, in *In) (work[Out], error) {
		w, err := f(c.iamRequest(), in)
		if err != nil || w.Commit == nil {
			return work[Out]{do: w.Do}, err
		}
		return work[Out]{do: w.Do, commit: func(ctx context.Context, tx *metadata.Tx) (*Out, error) {
			out, err := w.Commit(ctx, tx)
			if err == nil {
				c.event.ResponseElements = membersOf(reflect.ValueOf(out).Elem()) // its secrets apart
			}
			return out, err
		}}, nil
	}
}

// iamReads makes a handler of a function that reads.
func iamReads[In, Out any](f func(context.Context, *identity.Request, *In) (*Out, error)) func(*call, *In) (work[Out], error) {
	return iam(func(r *identity.Request, in *In) (identity.Work[Out], error) {
		return identity.Work[Out]{Do: func(ctx context.Context) (*Out, error) { return f(ctx, r, in) }}, nil
	})
}

// iamChanges makes a handler of a function that changes.
func iamChanges[In, Out any](f func(context.Context, *metadata.Tx, *identity.Request, *In) (*Out, error)) func(*call, *In) (work[Out], error) {
	return iam(func(r *identity.Request, in *In) (identity.Work[Out], error) {
		return identity.Work[Out]{Commit: func(ctx context.Context, tx *metadata.Tx) (*Out, error) { return f(ctx, tx, r, in) }}, nil
	})
}

func (c *call) iamRequest() *identity.Request {
	store := c.gateway.defaultStore(c.region)
	r := &identity.Request{
		Caller: c.caller, Now: c.now, Region: c.region, Store: c.gateway.store, View: c.view,
		Token: c.gateway.tokens[store], KeyStore: store, SealSession: c.sealSession,
	}
	if len(c.resources) > 0 {
		r.Target = c.resources[0].named()
	}
	return r
}

// named is what a target was found to be.
func (r *resource) named() identity.Target {
	return identity.Target{Account: r.account, Name: r.name, ARN: r.arn}
}
