package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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

const (
	// auditPage is how many records are read at once.
	auditPage = 1000
	// maxTail is how many of the newest records can be asked for.
	maxTail = 10_000
)

func runAuditTail(ctx context.Context, p *program, args []string) error {
	set := p.flags("audit tail -config FILE [flags]", auditTailUsage)
	path := set.String("config", "", "configuration `file` (required)")
	n := set.Int("n", 10, fmt.Sprintf("`number` of records to begin with, at most %d; 0 for the whole log", maxTail))
	follow := set.Bool("f", false, "go on with new records until interrupted")
	if err := p.parse(set, args); err != nil {
		return err
	}
	if *n < 0 || *n > maxTail {
		return usagef("-n is %d: from 1 to %d, or 0 for the whole log", *n, maxTail)
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
	if *n == 0 {
		err = t.whole(ctx, *follow)
	} else {
		err = t.newest(ctx, *n, *follow)
	}
	if err == nil && *follow {
		err = t.follow(ctx)
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

// whole prints the log from its beginning.
func (t *tail) whole(ctx context.Context, follow bool) error {
	if err := t.read(ctx, t.print); err != nil || follow {
		return err
	}
	late, err := t.late(ctx)
	if err != nil {
		return err
	}
	return t.print(late)
}

// newest prints the newest n records.
func (t *tail) newest(ctx context.Context, n int, follow bool) error {
	records, cursor, err := t.log.Last(ctx, n)
	if err != nil {
		return err
	}
	t.cursor = cursor
	if !follow {
		late, err := t.late(ctx)
		if err != nil {
			return err
		}
		records = append(records, late...)
	}
	return t.print(records[max(0, len(records)-n):])
}

// read hands over what has come to the chain since, page by page.
func (t *tail) read(ctx context.Context, to func([]metadata.StoredRecord) error) error {
	for {
		records, cursor, err := t.log.Records(ctx, t.cursor, auditPage)
		if err != nil {
			return err
		}
		t.cursor = cursor
		if err := to(records); err != nil || len(records) < auditPage {
			return err
		}
	}
}

// late reads what the chain has got since and, after it, the records of changes
// that wait for their place in the chain: they are as durable as the others.
func (t *tail) late(ctx context.Context) ([]metadata.StoredRecord, error) {
	waiting, err := t.log.Outbox(ctx, auditPage)
	if err != nil {
		return nil, err
	}
	var late []metadata.StoredRecord
	placed := map[string]bool{} // what was waiting may have its place by now
	err = t.read(ctx, func(records []metadata.StoredRecord) error {
		for _, r := range records {
			placed[string(r.Event)] = true
		}
		late = append(late, records...)
		return nil
	})
	for _, r := range waiting {
		if !placed[string(r.Event)] {
			late = append(late, r)
		}
	}
	return late, err
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
			if err := t.read(ctx, t.print); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}
