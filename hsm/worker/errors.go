package worker

import (
	"context"
	"errors"
	"fmt"

	"kmsgate/hsm"
)

// sentinels are the errors that are told from others on the other end too: their
// places are bits in what crosses, so new ones go to the end.
var sentinels = []error{
	hsm.ErrInvalidCiphertext, hsm.ErrInvalidSignature, hsm.ErrInvalidPublicKey, hsm.ErrIncorrectMaterial,
	hsm.ErrMissing, hsm.ErrBinding, hsm.ErrWrongMaterial, hsm.ErrUnsupported, hsm.ErrUnavailable,
	hsm.ErrBusy, hsm.ErrDeadline, hsm.ErrPIN, context.Canceled, context.DeadlineExceeded,
}

// crossed is an error of the other end: its text, and which sentinels it is.
type crossed struct {
	text string
	is   []error
}

func (e *crossed) Error() string { return e.text }

func (e *crossed) Unwrap() []error { return e.is }

// maxErrorBytes bounds the text of an error that crosses.
const maxErrorBytes = 4096

func (e *encoder) error(err error) {
	e.bool(err != nil)
	if err == nil {
		return
	}
	var is uint64
	for bit, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			is |= 1 << bit
		}
	}
	text := err.Error()
	e.uint(is)
	e.string(text[:min(len(text), maxErrorBytes)])
}

func (d *decoder) error() error {
	if !d.bool() {
		return nil
	}
	is, text := d.uint(), d.string()
	if d.bad || is>>len(sentinels) != 0 {
		d.fail()
		return nil
	}
	err := &crossed{text: text}
	for bit, sentinel := range sentinels {
		if is&(1<<bit) != 0 {
			err.is = append(err.is, sentinel)
		}
	}
	return err
}

// lateError is the answer to a caller whose ctx has ended.
func lateError(ctx context.Context) error {
	return fmt.Errorf("%w: %w", hsm.ErrDeadline, context.Cause(ctx))
}
