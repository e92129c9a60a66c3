package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// benchLoad is what the load client is told to do.
type benchLoad struct {
	benchSigner
	// Calls are sent in turns, over all connections together.
	Calls       []benchCall `json:"calls"`
	Connections int         `json:"connections"`
	// Duration is how long requests are sent. Zero: until there were Requests of them.
	Duration time.Duration `json:"duration"`
	Requests int           `json:"requests"`
}

// benchAnswer is what the load client has seen.
type benchAnswer struct {
	Requests int           `json:"requests"`
	Failed   int           `json:"failed"`  // answers that are no success
	Failure  string        `json:"failure"` // one of them
	Elapsed  time.Duration `json:"elapsed"`
	P50      time.Duration `json:"p50"`
	P99      time.Duration `json:"p99"`
	CPU      time.Duration `json:"cpu"` // of the client's process, meanwhile
}

// Words between bench and its load client, as JSON.
const (
	benchReady = "ready" // signed and connected
	benchGo    = "go"
)

// benchClient is the load client, a process of its own: it reads a benchLoad,
// signs all of it, connects, says that it is ready, and begins when it is told.
func benchClient(ctx context.Context, in io.Reader, out io.Writer) error {
	words, answers := json.NewDecoder(in), json.NewEncoder(out)
	var load benchLoad
	if err := words.Decode(&load); err != nil {
		return fmt.Errorf("read the load: %w", err)
	}
	l, err := load.connect(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	if err := answers.Encode(benchReady); err != nil {
		return err
	}
	var word string
	if err := words.Decode(&word); err != nil || word != benchGo {
		return fmt.Errorf("waiting for the start: %w", errors.Join(err, ctx.Err()))
	}
	answer, err := l.run()
	if err != nil {
		return err
	}
	return answers.Encode(answer)
}

// loader sends a load whose requests are signed, over connections that are open.
type loader struct {
	benchLoad
	requests [][]byte
	conns    []*benchConn
	sent     atomic.Int64
}

func (l *benchLoad) connect(ctx context.Context) (*loader, error) {
	r := &loader{benchLoad: *l}
	now := time.Now()
	for _, c := range l.Calls {
		r.requests = append(r.requests, l.request(c, now))
	}
	for i := range l.Connections {
		c, err := dialBench(ctx, l.Address)
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		r.conns = append(r.conns, c)
		if l.Duration == 0 {
			continue // every request counts
		}
		if _, _, err := c.roundTrip(r.requests[i%len(r.requests)]); err != nil {
			return nil, errors.Join(err, r.close())
		}
	}
	return r, nil
}

func (l *loader) close() error {
	var errs []error
	for _, c := range l.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// run sends requests on all connections and counts the answers.
func (l *loader) run() (benchAnswer, error) {
	cpu, err := ownCPU()
	if err != nil {
		return benchAnswer{}, err
	}
	results := make([]connResult, len(l.conns))
	start := time.Now()
	var wg sync.WaitGroup
	for i, c := range l.conns {
		wg.Go(func() { results[i] = l.drive(c, start) })
	}
	wg.Wait()
	a := benchAnswer{Elapsed: time.Since(start)}
	after, err := ownCPU()
	a.CPU = after - cpu
	var latencies []time.Duration
	for i := range results {
		r := &results[i]
		err = errors.Join(err, r.err)
		latencies = append(latencies, r.latencies...)
		a.Failed += r.failed
		if r.failure != "" {
			a.Failure = r.failure
		}
	}
	slices.Sort(latencies)
	a.Requests, a.P50, a.P99 = len(latencies), quantile(latencies, .50), quantile(latencies, .99)
	return a, err
}

// connResult is what one connection has seen.
type connResult struct {
	latencies []time.Duration
	failed    int
	failure   string
	err       error
}

// drive sends one request after the other on a connection.
func (l *loader) drive(c *benchConn, start time.Time) (r connResult) {
	end := start.Add(l.Duration)
	for before := start; l.Duration == 0 || before.Before(end); {
		n := int(l.sent.Add(1)) - 1
		if l.Duration == 0 && n >= l.Requests {
			return r
		}
		status, body, err := c.roundTrip(l.requests[n%len(l.requests)])
		if err != nil {
			r.err = err
			return r
		}
		after := time.Now()
		r.latencies = append(r.latencies, after.Sub(before))
		before = after
		if status != 200 {
			r.failed++
			r.failure = fmt.Sprintf("%d %s", status, body)
		}
	}
	return r
}

// quantile is a quantile of sorted values; zero if there are none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))]
}

// benchConn is a connection that knows as much of HTTP/1.1 as the answers need.
type benchConn struct {
	net.Conn
	in   *bufio.Reader
	body []byte
}

// benchTimeout bounds the wait for one answer.
const benchTimeout = 30 * time.Second

func dialBench(ctx context.Context, address string) (*benchConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &benchConn{Conn: conn, in: bufio.NewReaderSize(conn, 8<<10)}, nil
}

// contentLength is the one header of an answer that matters here.
var contentLength = []byte("Content-Length: ")

// roundTrip sends a request and returns the answer, whose body is good until
// the next call.
func (c *benchConn) roundTrip(request []byte) (status int, body []byte, err error) {
	if err := c.SetDeadline(time.Now().Add(benchTimeout)); err != nil {
		return 0, nil, err
	}
	if _, err := c.Write(request); err != nil {
		return 0, nil, err
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return 0, nil, fmt.Errorf("read an answer: %w", err)
	}
	if len(line) < len("HTTP/1.1 200") {
		return 0, nil, fmt.Errorf("answer begins with %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, fmt.Errorf("answer begins with %q", line)
	}
	length := -1
	for len(bytes.TrimSpace(line)) > 0 {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return 0, nil, fmt.Errorf("read an answer: %w", err)
		}
		if value, ok := bytes.CutPrefix(line, contentLength); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, nil, err
			}
		}
	}
	if length < 0 {
		return 0, nil, errors.New("an answer has no Content-Length")
	}
	c.body = slices.Grow(c.body[:0], length)[:length]
	_, err = io.ReadFull(c.in, c.body)
	return status, c.body, err
}

// benchRoles are what this program is when bench starts it once more.
var benchRoles = map[string]func(context.Context, io.Reader, io.Writer) error{
	"client": benchClient,
	"raw":    benchRaw,
}

// runRole does the part of a process that bench started.
func (p *program) runRole(ctx context.Context, role string) error {
	return benchRoles[role](ctx, os.Stdin, p.stdout)
}
