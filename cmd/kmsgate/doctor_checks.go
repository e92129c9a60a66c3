package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"kmsgate/metadata"
)

// Permissions that files must not give.
const (
	mustNotRead  os.FileMode = 0o044 // group and others
	mustNotWrite os.FileMode = 0o022
)

// files examines what the configuration names on disk, and the configuration
// itself: who can write it, or a module, decides what runs with the PIN.
func (d *doctor) files(c *config, path string) {
	forbidden := mustNotWrite
	if hasPassword(c.Database.URL) {
		forbidden |= mustNotRead
	}
	d.file("configuration", path, forbidden)
	for _, m := range c.Modules {
		d.file("PKCS#11 module", m.Path, mustNotWrite)
		for _, t := range m.Tokens {
			d.file("PIN file of token "+t.Name, t.PINFile, mustNotRead|mustNotWrite)
		}
	}
	for _, f := range []struct {
		about, path string
		forbidden   os.FileMode
	}{
		{"secret of the webhook", c.Events.SecretFile, mustNotRead | mustNotWrite},
		{"authorities of the webhook", c.Events.CAFile, mustNotWrite},
		{"authorities of OIDC issuers", c.OIDC.CAFile, mustNotWrite},
	} {
		if f.path != "" {
			d.file(f.about, f.path, f.forbidden)
		}
	}
	if c.TLS.Certificate == "" {
		return
	}
	there := d.file("TLS certificate", c.TLS.Certificate, mustNotWrite)
	if there {
		d.certificateFile(c.TLS.Certificate)
	}
	if c.TLS.Key != "" && d.file("TLS key", c.TLS.Key, mustNotRead|mustNotWrite) && there {
		d.pair(&c.TLS)
	}
}

// hasPassword tells whether there is a password in libpq's forms of a database's
// address.
func hasPassword(address string) bool {
	if u, err := url.Parse(address); err == nil && u.User != nil {
		if _, has := u.User.Password(); has {
			return true
		}
	}
	return strings.Contains(address, "password=")
}

// pair examines that a certificate and a key in files belong together.
func (d *doctor) pair(c *tlsConfig) {
	if _, err := tls.LoadX509KeyPair(c.Certificate, c.Key); err != nil {
		d.problem("TLS key", fmt.Sprintf("%s with %s: %v", c.Certificate, c.Key, err), "give the certificate of this key, or the key of this certificate")
	}
}

// file examines that a file is there, which it returns, and gives nobody but its
// owner what is forbidden. That a group reads is only a warning: it is how secrets
// are handed to services.
func (d *doctor) file(about, path string, forbidden os.FileMode) (there bool) {
	const group = 0o040
	info, err := os.Stat(path)
	if err != nil {
		d.problem(about, err.Error(), "correct the path in the configuration, or bring the file back")
		return false
	}
	mode := info.Mode().Perm()
	given := mode & forbidden
	switch {
	case given&mustNotWrite != 0:
		d.problem(about, fmt.Sprintf("%s has mode %04o: others than its owner can change it", path, mode), "chmod go-w "+path)
	case given == group:
		d.warning(about, fmt.Sprintf("%s has mode %04o: its group can read it", path, mode), "chmod 600 "+path+", unless only kmsgate is in that group")
	case given != 0:
		d.problem(about, fmt.Sprintf("%s has mode %04o: others than its owner can read it", path, mode), "chmod 600 "+path)
	default:
		d.fine(about, fmt.Sprintf("%s, mode %04o", path, mode))
	}
	return true
}

// soon is how long before its end a certificate is worth a warning.
const soon = 30 * 24 * time.Hour

// certificateFile examines the API's certificate.
func (d *doctor) certificateFile(path string) {
	const about, renew = "TLS certificate", "have a new certificate issued; for a key in a token: kmsgate hsm tls-key"
	chain, err := readChain(path)
	if err != nil {
		d.problem(about, err.Error(), "correct tls.certificate in the configuration, or bring the file back")
		return
	}
	now, begin, end := time.Now(), chain.Leaf.NotBefore, chain.Leaf.NotAfter
	switch {
	case now.After(end):
		d.problem(about, fmt.Sprintf("it has expired at %s", end.UTC().Format(time.RFC3339)), renew)
	case now.Before(begin):
		d.problem(about, fmt.Sprintf("it is not valid before %s", begin.UTC().Format(time.RFC3339)), "check this host's clock")
	case now.Add(soon).After(end):
		d.warning(about, fmt.Sprintf("it expires at %s", end.UTC().Format(time.RFC3339)), renew)
	default:
		d.fine(about, fmt.Sprintf("it is valid until %s", end.UTC().Format(time.RFC3339)))
	}
}

// database examines the server's settings. Its schema was examined when it was
// opened.
func (d *doctor) database(ctx context.Context) error {
	f, err := d.store.ServerFacts(ctx)
	if err != nil {
		return err
	}
	safe := true
	for _, s := range []struct{ name, value string }{
		{"fsync", f.Fsync}, {"full_page_writes", f.FullPageWrites}, {"synchronous_commit", f.SynchronousCommit},
	} {
		if s.value == "off" {
			safe = false
			d.problem("database", s.name+" is off: a crash can lose keys that were acknowledged", "set "+s.name+" to on in Postgres")
		}
	}
	if d.config.Database.AllowUnsafeDurability {
		d.warning("database", "database.allow_unsafe_durability is set: a server that can lose what it has acknowledged would be served",
			"take it out of the configuration; it is for tests")
	}
	if safe {
		d.fine("database", "Postgres "+f.Version+", of this version's schema, keeps what it has acknowledged")
	}
	return nil
}

// maxClockDifference is how far the clocks of an instance and of Postgres may be
// apart.
const maxClockDifference = 2 * time.Second

func (d *doctor) clock(ctx context.Context) error {
	skew, err := d.store.ClockSkew(ctx)
	if err != nil {
		return err
	}
	if skew.Abs() > maxClockDifference {
		d.problem("clock", fmt.Sprintf("Postgres's clock differs by %s from this host's", skew.Round(time.Millisecond)),
			"synchronise both with NTP: an instance whose clock is off does not serve")
		return nil
	}
	d.fine("clock", fmt.Sprintf("within %s of Postgres's", maxClockDifference))
	return nil
}

// auditLog reports what was left behind in the audit log before this run.
func (d *doctor) auditLog(context.Context) error {
	for _, r := range d.deadRuns {
		d.warning("audit log", describeRun(&r)+" has ended without finishing, and nobody had taken it up",
			"nothing: this run does, as each running instance does. If it happens often, find out what ends kmsgate")
	}
	if len(d.deadRuns) == 0 {
		d.fine("audit log", "no run that has ended has left anything behind")
	}
	return nil
}

func describeRun(r *metadata.DeadRun) string {
	waiting := counted(int(r.Waiting), "record of a change waits", "records of changes wait") + " for a place in the chain"
	if r.Instance == "" {
		return fmt.Sprintf("a run of an unknown instance (stream %v, of which %s)", r.Stream, waiting)
	}
	return fmt.Sprintf("the run of instance %s that began at %s (stream %v, of which %s)", r.Instance, r.Started.UTC().Format(time.RFC3339), r.Stream, waiting)
}

// How long to wait for what was left behind to be taken up, and how often to look.
const (
	takeUpWait  = 10 * time.Second
	takeUpPause = 250 * time.Millisecond
)

// takenUp reports what was left behind before this run and still is.
func (d *doctor) takenUp(ctx context.Context) (err error) {
	log, deadline := d.store.AuditLog(), time.Now().Add(takeUpWait)
	for {
		d.deadRuns, err = log.Left(ctx, d.deadRuns)
		if err != nil || len(d.deadRuns) == 0 || time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(takeUpPause):
		}
	}
	for _, r := range d.deadRuns {
		d.problem("audit log", describeRun(&r)+" could not be taken up", "look at the logs of running instances: they try every few seconds, and say what hinders them")
	}
	return err
}

// keyStores reports the database's key stores that this configuration leaves out.
func (d *doctor) keyStores(ctx context.Context) error {
	stores, err := d.store.AllKeyStores(ctx)
	if err != nil {
		return err
	}
	configured := map[string]bool{}
	for _, r := range d.config.Regions {
		configured[r.Store] = true
	}
	for _, s := range stores {
		if !configured[s.ID] {
			d.warning("key store "+s.ID, fmt.Sprintf("the database has it for region %s, and the configuration does not name it: its keys are neither served nor examined", s.Region),
				"add it to regions, or examine it with the configuration of those who serve it")
		}
	}
	return nil
}

// loginMarks reports refused PINs.
func (d *doctor) loginMarks(ctx context.Context) error {
	marks, err := d.store.LoginMarks(ctx)
	for _, m := range marks {
		d.problem("token with serial "+m.Serial, fmt.Sprintf("it refused the PIN of instance %s at %s, and is not tried again", m.Instance, m.RefusedAt.UTC().Format(time.RFC3339)),
			"correct the PIN file, then run: kmsgate hsm login -config FILE")
	}
	return err
}
