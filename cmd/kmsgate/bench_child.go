package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"kmsgate/hsm/pkcs11"
)

// child is this program once more, in a role of the bench. They exchange JSON
// values over its standard input and output.
type child struct {
	cmd *exec.Cmd
	out *json.Encoder
	in  *json.Decoder
	end io.Closer // of its input
}

func startChild(ctx context.Context, role string, job any) (*child, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, "bench", role)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, out: json.NewEncoder(stdin), in: json.NewDecoder(stdout), end: stdin}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := c.out.Encode(job); err != nil {
		return nil, c.finish(err)
	}
	return c, nil
}

// finish waits for the process to end. err is what went wrong before.
func (c *child) finish(err error) error {
	if e := c.end.Close(); err != nil {
		err = errors.Join(err, e)
	}
	if e := c.cmd.Wait(); e != nil {
		return fmt.Errorf("bench %s: %w", c.cmd.Args[2], errors.Join(err, e))
	}
	return err
}

// rawJob is what the raw loop is told to do.
type rawJob struct {
	Module     string        `json:"module"`
	Serial     string        `json:"serial"`
	PINFile    string        `json:"pinFile"`
	Goroutines int           `json:"goroutines"`
	Duration   time.Duration `json:"duration"`
	rawAlgorithm
}

// benchRaw measures the token alone. It is a process of its own because an
// engine has its module for itself in a process.
func benchRaw(ctx context.Context, in io.Reader, out io.Writer) error {
	var job rawJob
	if err := json.NewDecoder(in).Decode(&job); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	cfg := pkcs11.Config{Module: job.Module, Serial: job.Serial, PIN: pkcs11.PINFile(job.PINFile)}
	loop, err := pkcs11.Loop(ctx, cfg, job.Spec, job.Usage, job.Algorithm, job.Goroutines, job.Duration)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(rawSample{PerSecond: loop.PerSecond(), CPU: perRequest(loop.CPU, loop.Operations)})
}

// rawLoop runs one round of a raw loop.
func (e *benchEnvironment) rawLoop(ctx context.Context, a rawAlgorithm, goroutines int, d time.Duration) (r rawSample, err error) {
	c, err := startChild(ctx, "raw", rawJob{
		Module: e.token.Module, Serial: e.token.Serial, PINFile: e.token.PINFile, Goroutines: goroutines, Duration: d, rawAlgorithm: a,
	})
	if err != nil {
		return r, err
	}
	return r, c.finish(c.in.Decode(&r))
}

// load runs the load client on the gateway. What happens in between is told to
// around, which is called with the client waiting, and returns what to call
// when it is done.
func (e *benchEnvironment) load(ctx context.Context, l benchLoad, around func() (func() error, error)) (a benchAnswer, err error) {
	l.benchSigner = e.signer
	c, err := startChild(ctx, "client", l)
	if err != nil {
		return a, err
	}
	var word string
	if err := c.in.Decode(&word); err != nil || word != benchReady {
		return a, c.finish(errors.Join(err, errors.New("the load client is not ready")))
	}
	done, err := around()
	if err != nil {
		return a, c.finish(err)
	}
	if err := c.out.Encode(benchGo); err != nil {
		return a, c.finish(err)
	}
	err = c.in.Decode(&a)
	if err = errors.Join(err, done()); err == nil && a.Failed > 0 {
		err = fmt.Errorf("%d of %d requests failed: %s", a.Failed, a.Requests, a.Failure)
	}
	return a, c.finish(err)
}
