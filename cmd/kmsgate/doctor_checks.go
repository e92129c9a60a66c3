package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"time"

	"kmsgate/hsm"
	"kmsgate/metadata"
)

// files examines what the configuration names on disk.
func (d *doctor) files(c *config) {
	for _, m := range c.Modules {
		d.file("PKCS#11 module", m.Path, 0)
		for _, t := range m.Tokens {
			d.file("PIN file of token "+t.Name, t.PINFile, 0o077)
		}
	}
	if c.TLS.Certificate == "" {
		return
	}
	if c.TLS.Key != "" {
		d.file("TLS key", c.TLS.Key, 0o077)
		if _, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key); err != nil {
			d.problem("TLS certificate", err.Error(), "give the certificate of this key")
		}
	}
	d.certificateFile(c.TLS.Certificate)
}

// file examines that a file is there and that nobody has the permissions that
// are forbidden.
func (d *doctor) file(about, path string, forbidden os.FileMode) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		d.problem(about, err.Error(), "correct the path in the configuration, or bring the file back")
	case info.Mode().Perm()&forbidden != 0:
		d.problem(about, fmt.Sprintf("%s has mode %04o: others than its owner can read it", path, info.Mode().Perm()), "chmod 600 "+path)
	default:
		d.fine(about, path)
	}
}

// soon is how long before its end a certificate is worth a warning.
const soon = 30 * 24 * time.Hour

func (d *doctor) certificateFile(path string) {
	const about, renew = "TLS certificate", "have a new certificate issued; for a key in a token: kmsgate hsm tls-key"
	chain, err := readChain(path)
	if err != nil {
		d.problem(about, err.Error(), "correct tls.certificate in the configuration")
		return
	}
	now, end := time.Now(), chain.Leaf.NotAfter
	switch {
	case now.After(end):
		d.problem(about, fmt.Sprintf("%s has expired at %s", path, end.UTC().Format(time.RFC3339)), renew)
	case now.Before(chain.Leaf.NotBefore):
		d.problem(about, fmt.Sprintf("%s is not valid before %s", path, chain.Leaf.NotBefore.UTC().Format(time.RFC3339)), "check this host's clock")
	case now.Add(soon).After(end):
		d.warning(about, fmt.Sprintf("%s expires at %s", path, end.UTC().Format(time.RFC3339)), renew)
	default:
		d.fine(about, fmt.Sprintf("%s, until %s", path, end.UTC().Format(time.RFC3339)))
	}
}

// maxClockDifference is how far the clocks of an instance and of Postgres may be
// apart.
const maxClockDifference = 2 * time.Second

// database examines the server's settings and clock.
func (d *doctor) database(ctx context.Context) error {
	f, err := d.store.ServerFacts(ctx)
	if err != nil {
		return err
	}
	for _, s := range []struct{ name, value string }{
		{"fsync", f.Fsync}, {"full_page_writes", f.FullPageWrites}, {"synchronous_commit", f.SynchronousCommit},
	} {
		if s.value == "off" {
			d.problem("database", fmt.Sprintf("%s is off: a crash can lose keys that were acknowledged", s.name), "set "+s.name+" to on")
		}
	}
	if f.ClockDifference.Abs() > maxClockDifference {
		d.problem("clock", fmt.Sprintf("Postgres's clock differs by %s from this host's", f.ClockDifference.Round(time.Millisecond)),
			"synchronise both with NTP: an instance whose clock is off does not serve")
	} else {
		d.fine("clock", fmt.Sprintf("within %s of Postgres's", maxClockDifference))
	}
	d.fine("database", "Postgres "+f.Version)
	return nil
}

// auditLog examines the streams of the audit log.
func (d *doctor) auditLog(ctx context.Context) error {
	streams, err := d.store.AuditLog().Streams(ctx)
	if err != nil {
		return err
	}
	open := 0
	for _, s := range streams {
		if !s.Ended {
			open++
		}
	}
	f, err := d.store.ServerFacts(ctx)
	if err != nil {
		return err
	}
	d.fine("audit log", fmt.Sprintf("%d streams, %d of them of processes that run or have died; %d records of changes wait for their place",
		len(streams), open, f.Waiting))
	return nil
}

// loginMarks examines whether a PIN was refused.
func (d *doctor) loginMarks(ctx context.Context) error {
	marks, err := d.store.LoginMarks(ctx)
	for _, m := range marks {
		d.problem("token "+m.Serial, fmt.Sprintf("it refused the PIN of instance %s at %s, and is not tried again", m.Instance, m.RefusedAt.UTC().Format(time.RFC3339)),
			"correct the PIN file, then run: kmsgate hsm login -config FILE")
	}
	return err
}

// serviceKeys examines the rows of the service keys of a token's stores. That
// each is in the token and proves itself was examined when the token was opened.
func (d *doctor) serviceKeys(ctx context.Context, t tokenConfig) {
	for _, store := range d.config.storesOf(t.Name) {
		about := "key store " + store
		rows, err := d.store.ServiceKeys(ctx, store)
		if err != nil {
			d.problem(about, err.Error(), "look at the database")
			continue
		}
		d.serviceKeyRows(about, rows)
	}
}

func (d *doctor) serviceKeyRows(about string, rows []metadata.ServiceKey) {
	active := map[hsm.ServiceKeyKind]bool{}
	for _, k := range rows {
		active[k.Kind] = active[k.Kind] || k.State == metadata.ServiceKeyActive
		if k.State == metadata.ServiceKeyCreating {
			d.warning(about, fmt.Sprintf("%s key, generation %d, was being made when a run was cut off", k.Kind, k.Generation), "run: kmsgate init -config FILE -account ACCOUNT")
		}
	}
	for _, kind := range hsm.ServiceKeyKinds {
		if !active[kind] {
			d.problem(about, fmt.Sprintf("it has no %s key", kind), "run: kmsgate init -config FILE -account ACCOUNT")
			return
		}
	}
	d.fine(about, fmt.Sprintf("%d service keys are in the token and prove themselves", len(rows)))
}
