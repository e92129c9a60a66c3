package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

const doctorUsage = `Examines a whole installation: files and their permissions, the certificate, the
database, the audit log, each token with its service keys, and the keys of KMS.
It says what is wrong, what to look at, and what to do next. Keys that live in a
token are held against the database both ways: objects that no row names are
reported and never destroyed; rows whose object is missing are reported with
their key. Of the other keys a sample is opened, or all with -all.

It changes no key without -repair. That makes keys Unavailable whose object is
missing, and enables those again that are Unavailable and whose objects are all
back and have proved themselves. The audit log has each, and that doctor was run.
The exit code is 1 if something is wrong; warnings alone leave it at 0.`

// severity says how bad a finding is.
type severity string

// Severities, the worst first.
const (
	severityProblem  severity = "problem" // something is wrong
	severityWarning  severity = "warning" // to be looked at
	severityRepaired severity = "repaired"
	severityFine     severity = "fine"
)

// finding is one thing that the doctor says.
type finding struct {
	Severity severity `json:"severity"`
	About    string   `json:"about"`
	Found    string   `json:"found"`
	Do       string   `json:"do,omitempty"` // next
}

// maxFindings is how many findings are kept; more are only counted.
const maxFindings = 10_000

// diagnosis is all that the doctor says. The JSON is for machines and keeps its names.
type diagnosis struct {
	Findings []finding `json:"findings"`
	Problems int       `json:"problems"`
	Warnings int       `json:"warnings"`
	// Unlisted counts the findings beyond those that are kept.
	Unlisted  int `json:"unlisted"`
	Materials int `json:"keyMaterials"` // of the key stores that were examined
	Opened    int `json:"keyMaterialsOpened"`
}

// doctor is one examination.
type doctor struct {
	*installation
	diagnosis
	stderr   io.Writer
	repair   bool
	all      bool
	deadRuns []metadata.DeadRun // found before the database was opened for more than reading

	tokens    []configuredToken         // to be examined
	opened    map[string]*pkcs11.Engine // those that were, by name
	residents map[string]bool           // CKA_IDs of KMS keys that live in one of these
}

func runDoctor(ctx context.Context, p *program, args []string) error {
	set := p.flags("doctor -config FILE [-token NAME] [-json] [-all] [-repair]", doctorUsage)
	path := set.String("config", "", "configuration `file` (required)")
	only := set.String("token", "", "`name` of the one token to examine; all of them without it")
	asJSON := set.Bool("json", false, "print JSON")
	all := set.Bool("all", false, fmt.Sprintf("open every key, not a sample of %d of each key store", sampleKeys))
	repair := set.Bool("repair", false, "make keys Unavailable whose object is missing, and enable those whose object is back")
	if err := p.parse(set, args); err != nil {
		return err
	}
	d := &doctor{diagnosis: diagnosis{Findings: []finding{}}, stderr: p.stderr, repair: *repair, all: *all}
	c, _, err := p.configuration(*path)
	if _, usage := errors.AsType[usageError](err); usage {
		return err
	}
	if err != nil {
		d.problem("configuration", err.Error(), "correct the file; deployments/kmsgate.yaml documents every key")
	} else {
		tokens, err := c.tokensNamed(*only)
		if err != nil {
			return err
		}
		if err := d.examine(ctx, c, *path, tokens); err != nil {
			return err
		}
	}
	if *asJSON {
		err = d.writeJSON(p.stdout)
	} else {
		err = d.writeText(p.stdout)
	}
	if err == nil && d.Problems > 0 {
		err = errors.New(counted(d.Problems, "thing is wrong", "things are wrong"))
	}
	return err
}

// examine makes all examinations. What is wrong is a finding; an error is the end
// of ctx.
func (d *doctor) examine(ctx context.Context, c *config, path string, tokens []configuredToken) error {
	if err := c.checkListening(); err != nil {
		d.problem("configuration", err.Error(), "correct the file")
	}
	d.files(c, path)
	if err := d.openDatabase(ctx, c); err != nil {
		do := "do as it says"
		if errors.Is(err, metadata.ErrUnavailable) {
			do = "start Postgres, or correct database.url in the configuration"
		}
		d.problem("database", err.Error(), do)
		return ctx.Err()
	}
	d.examineInstallation(ctx, tokens)
	if err := d.close(ctx); err != nil {
		d.warning("installation", "it could not be closed: "+err.Error(), "look at the HSM's and Postgres's own logs")
	}
	return ctx.Err()
}

// openDatabase looks for what dead runs have left behind, and then opens the
// database: that begins a stream of the audit log and takes up the others.
func (d *doctor) openDatabase(ctx context.Context, c *config) error {
	log, err := metadata.OpenAuditLog(ctx, metadata.Config{
		URL: c.Database.URL, Instance: c.Instance, AllowUnsafeDurability: c.Database.AllowUnsafeDurability,
	})
	if err != nil {
		return err
	}
	d.deadRuns, err = log.DeadRuns(ctx)
	log.Close()
	if err != nil {
		return err
	}
	// The logger would only repeat what the findings say.
	d.installation, err = openDatabase(ctx, c, slog.New(slog.DiscardHandler), nil)
	return err
}

func (d *doctor) examineInstallation(ctx context.Context, tokens []configuredToken) {
	event := adminEvent("doctor", "ExamineInstallation", "", "", time.Now(), audit.Members{audit.Bool("repair", d.repair)})
	if err := d.record(ctx, event); err != nil {
		d.problem("audit log", err.Error(), "nothing is examined that cannot be recorded: look at Postgres's own log")
		return
	}
	for _, examination := range []struct {
		about string
		run   func(context.Context) error
	}{
		{"database", d.database},
		{"clock", d.clock},
		{"audit log", d.auditLog},
		{"key stores", d.keyStores},
		{"PINs", d.loginMarks},
	} {
		if err := examination.run(ctx); err != nil {
			d.unfinished(examination.about, err)
		}
	}
	d.tokens, d.opened, d.residents = tokens, map[string]*pkcs11.Engine{}, map[string]bool{}
	for _, t := range tokens {
		if err := d.token(ctx, t); err != nil {
			d.unfinished("token "+t.Name, err)
		}
	}
	if err := d.takenUp(ctx); err != nil {
		d.unfinished("audit log", err)
	}
}

// unfinished reports an examination that could not be made to its end.
func (d *doctor) unfinished(about string, err error) {
	d.problem(about, "the examination ended early: "+err.Error(), "see to that first, then run this again")
}

func (d *doctor) add(s severity, about, found, do string) {
	switch s {
	case severityProblem:
		d.Problems++
	case severityWarning:
		d.Warnings++
	}
	if len(d.Findings) == maxFindings {
		d.Unlisted++
		return
	}
	d.Findings = append(d.Findings, finding{s, about, found, do})
}

func (d *doctor) problem(about, found, do string) { d.add(severityProblem, about, found, do) }
func (d *doctor) warning(about, found, do string) { d.add(severityWarning, about, found, do) }
func (d *doctor) fine(about, found string)        { d.add(severityFine, about, found, "") }

// progress says what long work has come to, if somebody is looking.
func (d *doctor) progress(format string, args ...any) {
	if isTerminal(d.stderr) {
		fmt.Fprintf(d.stderr, "doctor: "+format+"\n", args...)
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (d *diagnosis) writeJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(d)
}

func (d *diagnosis) writeText(w io.Writer) error {
	for _, f := range d.Findings {
		fmt.Fprintf(w, "%-8s  %s: %s\n", f.Severity, f.About, f.Found)
		if f.Do != "" {
			fmt.Fprintf(w, "%-8s  -> %s\n", "", f.Do)
		}
	}
	if d.Unlisted > 0 {
		fmt.Fprintf(w, "and %s.\n", counted(d.Unlisted, "more finding", "more findings"))
	}
	_, err := fmt.Fprintf(w, "\n%d of %s opened. %s, %s.\n", d.Opened, counted(d.Materials, "key material was", "key materials were"),
		counted(d.Problems, "problem", "problems"), counted(d.Warnings, "warning", "warnings"))
	return err
}

// counted is a number with what it counts.
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
