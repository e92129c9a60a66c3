package main

import (
	"bufio"
	"context"
	"errors"
	"time"

	"kmsgate/metadata"
)

// auditCommands are the subcommands of audit.
var auditCommands = []command{
	{"tail", "print the newest records as JSON lines", runAuditTail},
}

func runAudit(ctx context.Context, p *program, args []string) error {
	return p.subcommand(ctx, "audit", auditCommands, args)
}

const auditTailUsage = `Prints audit records, one JSON object a line: the exact bytes that the log's hashes
are over. SQL cannot show them, since they are stored compressed. Records of one
run of a process come in their order; those of several are merged by their times.
It reads only, and needs no token.`

// auditPage is how many records are read at once.
const auditPage = 1000

func runAuditTail(ctx context.Context, p *program, args []string) error {
	set := p.flags("audit tail -config FILE [flags]", auditTailUsage)
	path := set.String("config", "", "configuration `file` (required)")
	n := set.Int("n", 10, "`number` of records to begin with, at most 10000; 0 for the whole log")
	follow := set.Bool("f", false, "go on with new records until interrupted")
	if err := parse(set, args); err != nil {
		return err
	}
	c, _, err := p.configuration(*path)
	if err != nil {
		return err
	}
	log, err := metadata.OpenAuditLog(ctx, metadata.Config{
		URL: c.Database.URL, Instance: c.Instance, AllowUnsafeDurability: c.Database.AllowUnsafeDurability,
	})
	if err != nil {
		return err
	}
	defer log.Close()
	out := bufio.NewWriter(p.stdout)
	t := tail{log: log, print: func(records []metadata.StoredRecord) error { return printRecords(out, records) }}
	err = t.begin(ctx, *n)
	if err == nil && *follow {
		err = t.follow(ctx)
	} else if err == nil {
		err = t.outbox(ctx)
	}
	return errors.Join(err, out.Flush())
}

// printRecords writes records as lines, and them through.
func printRecords(out *bufio.Writer, records []metadata.StoredRecord) error {
	for _, r := range records {
		if _, err := out.Write(r.Event); err != nil {
			return err
		}
		if err := out.WriteByte('\n'); err != nil {
			return err
		}
	}
	return out.Flush()
}

// tail is one reading of the log.
type tail struct {
	log    *metadata.AuditLog
	cursor metadata.AuditCursor
	print  func([]metadata.StoredRecord) error
}

// begin prints the newest n records, or all.
func (t *tail) begin(ctx context.Context, n int) error {
	if n == 0 {
		return t.next(ctx)
	}
	records, cursor, err := t.log.Last(ctx, n)
	if err != nil {
		return err
	}
	t.cursor = cursor
	return t.print(records)
}

// next prints what has come since.
func (t *tail) next(ctx context.Context) error {
	for {
		records, cursor, err := t.log.Records(ctx, t.cursor, auditPage)
		if err != nil {
			return err
		}
		t.cursor = cursor
		if err := t.print(records); err != nil || len(records) < auditPage {
			return err
		}
	}
}

// outbox prints the records of changes that wait for their place in the chain:
// they are as durable as the others.
func (t *tail) outbox(ctx context.Context) error {
	records, err := t.log.Outbox(ctx, auditPage)
	if err != nil {
		return err
	}
	return t.print(records)
}

// followEvery is how often the log is asked for more.
const followEvery = 500 * time.Millisecond

func (t *tail) follow(ctx context.Context) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil // interrupted: that is how following ends
		case <-tick.C:
			if err := t.next(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}
