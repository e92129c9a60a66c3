package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"kmsgate/hsm/pkcs11"
)

const doctorUsage = `Examines a whole installation: files and their permissions, certificates, the
database, the audit log, each token with its service keys, and the keys of KMS.
It says what is wrong, what to look at, and what to do next. Keys that live in a
token are held against the database both ways: objects that no row names are
reported and never destroyed; rows whose object is missing are reported with
their key. Of the other keys a sample is opened, or all with -all.

It changes nothing without -repair. That makes keys Unavailable whose object is
missing, and enables those again that are Unavailable and whose object has been
found and has proved itself; the audit log has each. The exit code is 1 if
something is wrong.`

// Severities of findings, the worst first.
const (
	severityProblem = "problem" // something is wrong
	severityWarning = "warning" // to be looked at
	severityFine    = "fine"
	severityDone    = "repaired"
)

// finding is one thing that the doctor says.
type finding struct {
	Severity string `json:"severity"`
	About    string `json:"about"`
	Found    string `json:"found"`
	Do       string `json:"do,omitempty"` // next
}

// doctor is one examination.
type doctor struct {
	*installation
	program  *program
	repair   bool
	all      bool
	findings []finding
	// keys counts the materials that were opened, and all of them.
	opened, materials int
}

func runDoctor(ctx context.Context, p *program, args []string) error {
	set := p.flags("doctor -config FILE [-json] [-token NAME] [-all] [-repair]", doctorUsage)
	path := set.String("config", "", "configuration `file` (required)")
	only := set.String("token", "", "`name` of the one token to examine; all of them without it")
	asJSON := set.Bool("json", false, "print JSON")
	all := set.Bool("all", false, "open every key, not a sample")
	repair := set.Bool("repair", false, "make keys Unavailable whose object is missing, and enable those whose object is back")
	if err := p.parse(set, args); err != nil {
		return err
	}
	c, _, err := p.configuration(*path)
	if err != nil {
		return err
	}
	d := &doctor{program: p, repair: *repair, all: *all}
	if err := d.examine(ctx, c, *only); err != nil {
		return err
	}
	if *asJSON {
		err = d.writeJSON()
	} else {
		d.writeText()
	}
	if n := d.count(severityProblem); err == nil && n > 0 {
		err = fmt.Errorf("%d things are wrong", n)
	}
	return err
}

// examine makes all examinations. What is wrong is a finding; an error is an
// examination that could not be made to its end.
func (d *doctor) examine(ctx context.Context, c *config, only string) error {
	if _, err := c.tokensNamed(only); err != nil {
		return err
	}
	d.files(c)
	// The log would only repeat what the findings say.
	i, err := openDatabase(ctx, c, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		d.problem("database", err.Error(), "start Postgres and check database.url; after an upgrade run: kmsgate migrate -config FILE")
		return nil
	}
	d.installation = i
	return errors.Join(d.examineInstallation(ctx, only), i.close(ctx))
}

func (d *doctor) examineInstallation(ctx context.Context, only string) error {
	for _, examination := range []func(context.Context) error{d.database, d.auditLog, d.loginMarks} {
		if err := examination(ctx); err != nil {
			return err
		}
	}
	for _, m := range d.config.Modules {
		if err := m.setEnvironment(); err != nil {
			return err
		}
		for _, t := range m.Tokens {
			if only != "" && t.Name != only {
				continue
			}
			if err := d.token(ctx, m, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// token examines a token and the keys whose stores it serves.
func (d *doctor) token(ctx context.Context, m moduleConfig, t tokenConfig) error {
	about := "token " + t.Name
	d.progress("%s: opening", about)
	if err := d.openToken(ctx, m, t, nil); err != nil {
		d.problem(about, err.Error(), "check that the HSM is reachable, the label or serial, and the PIN file; after a refused PIN run: kmsgate hsm login -config FILE")
		return nil
	}
	engine := d.byToken[t.Name]
	if err := engine.Check(ctx); err != nil {
		d.problem(about, err.Error(), "look at the HSM's own log and state")
		return nil
	}
	profile := engine.Profile()
	d.fine(about, fmt.Sprintf("in service, %s keys in %d specs and usages can be made", d.config.label(t), madeKinds(profile)))
	d.serviceKeys(ctx, t)
	return d.keys(ctx, t, engine)
}

// label names a token for people.
func (*config) label(t tokenConfig) string {
	if t.Label != "" {
		return fmt.Sprintf("label %q,", t.Label)
	}
	return fmt.Sprintf("serial %s,", t.Serial)
}

// madeKinds counts the specs and usages that a token makes keys of.
func madeKinds(p pkcs11.Profile) (n int) {
	for _, k := range p.Keys {
		if k.Residency != pkcs11.Nowhere {
			n++
		}
	}
	return n
}

func (d *doctor) add(severity, about, found, do string) {
	d.findings = append(d.findings, finding{severity, about, found, do})
}

func (d *doctor) problem(about, found, do string) { d.add(severityProblem, about, found, do) }
func (d *doctor) warning(about, found, do string) { d.add(severityWarning, about, found, do) }
func (d *doctor) fine(about, found string)        { d.add(severityFine, about, found, "") }

func (d *doctor) count(severity string) (n int) {
	for _, f := range d.findings {
		if f.Severity == severity {
			n++
		}
	}
	return n
}

// progress says on standard error what is being done.
func (d *doctor) progress(format string, args ...any) {
	fmt.Fprintf(d.program.stderr, "doctor: "+format+"\n", args...)
}

func (d *doctor) writeJSON() error {
	encoder := json.NewEncoder(d.program.stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		Findings  []finding `json:"findings"`
		Opened    int       `json:"keysOpened"`
		Materials int       `json:"keyMaterials"`
	}{d.findings, d.opened, d.materials})
}

func (d *doctor) writeText() {
	w := d.program.stdout
	for _, f := range d.findings {
		fmt.Fprintf(w, "%-8s  %s: %s\n", f.Severity, f.About, f.Found)
		if f.Do != "" {
			fmt.Fprintf(w, "%-8s  -> %s\n", "", f.Do)
		}
	}
	fmt.Fprintf(w, "\n%d of %d key materials were opened. %d problems, %d warnings.\n",
		d.opened, d.materials, d.count(severityProblem), d.count(severityWarning))
}
