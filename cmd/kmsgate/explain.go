package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"kmsgate/gateway"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

const explainUsage = `Says why a request was refused: who asked for what, which rule refused it, what
became of each statement that was looked at, with the values of the conditions
that did not hold, and the smallest changes that would allow it. REQUEST-ID is
the x-amzn-RequestId of the answer, which SDKs print, or the requestID of the
audit record. Callers hear none of this. The audit log has each use. Needs no
token.`

func runExplain(ctx context.Context, p *program, args []string) error {
	set := p.flags("explain REQUEST-ID -config FILE [flags]", explainUsage)
	path := set.String("config", "", "configuration `file` (required)")
	asJSON := set.Bool("json", false, "print the whole document as JSON")
	id, err := p.parseOne(set, args, "REQUEST-ID")
	if err != nil {
		return err
	}
	request, err := uuid.Parse(id)
	if err != nil {
		return usagef("%q is not a request id: one looks like 1234abcd-12ab-34cd-56ef-1234567890ab", id)
	}
	return p.withDatabase(ctx, *path, func(i *installation) error {
		refused, err := i.explain(ctx, "explain", request)
		if err != nil {
			return err
		}
		if *asJSON {
			return writeJSON(p.stdout, refused)
		}
		printRefused(p.stdout, refused)
		return nil
	})
}

// explain finds out why a request was refused and records that somebody asked.
func (i *installation) explain(ctx context.Context, command string, request uuid.UUID) (*gateway.Refused, error) {
	refused, err := gateway.WhyRefused(ctx, i.store, request)
	account, region := "", ""
	switch {
	case errors.Is(err, metadata.ErrNotFound):
		err = &unknownRequestError{request, i.config.keepRefusals()}
	case err != nil:
		return nil, err
	default:
		account, region = refused.Principal.Account, refused.Region
	}
	event := adminEvent(command, "ExplainRefusal", account, region, time.Now(), audit.Members{audit.String("requestId", request.String())})
	return refused, errors.Join(err, i.record(ctx, event))
}

// keepRefusals is how long it is kept why requests were refused.
func (c *config) keepRefusals() time.Duration { return cmp.Or(c.KeepRefusals, gateway.KeepRefusals) }

// unknownRequestError is the answer about a request of which nothing is kept.
type unknownRequestError struct {
	request uuid.UUID
	kept    time.Duration
}

func (e *unknownRequestError) Error() string {
	return fmt.Sprintf("nothing is known of request %s: only requests that policy refused can be explained, for %s", e.request, days(e.kept))
}

// days are a duration in whole days, if that is what it is.
func days(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == day:
		return "1 day"
	case d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// printRefused prints a refusal for people.
func printRefused(w io.Writer, r *gateway.Refused) {
	fmt.Fprintf(w, "Request %s was refused.\n\n", r.RequestID)
	resource := r.Resource
	switch {
	case resource == "":
		resource = "the key of a ciphertext"
	case resource == "*":
		resource = "no resource in particular"
	case !r.Exists:
		resource += ", which is not there"
	}
	by := r.Principal.Kind + " " + r.Principal.ARN
	if r.Principal.RoleARN != "" {
		by += ", of " + r.Principal.RoleARN
	}
	for _, line := range [][2]string{
		{"when", r.Time.Format(time.RFC3339) + " in " + r.Region},
		{"who", by},
		{"with", "access key " + r.Principal.AccessKeyID + " from " + r.SourceIP},
		{"what", r.Action + ", by " + r.Operation},
		{"on", resource},
		{"refused", r.Because},
	} {
		fmt.Fprintf(w, "  %-8s %s\n", line[0], plain(line[1]))
	}
	printStatements(w, r)
	printGrants(w, r)
	printAlternatives(w, r)
}

func printStatements(w io.Writer, r *gateway.Refused) {
	if len(r.Statements) == 0 {
		fmt.Fprint(w, "\nNo statement of any policy was looked at.\n")
		return
	}
	document := ""
	for _, s := range r.Statements {
		if s.Document != document {
			document = s.Document
			fmt.Fprintf(w, "\nIn the %s:\n", plain(document))
		}
		name := fmt.Sprintf("statement %d", s.Statement+1)
		if s.Sid != "" {
			name += fmt.Sprintf(" %q", s.Sid)
		}
		fmt.Fprintf(w, "  %s, %s: %s\n", name, s.Effect, outcome(&s))
	}
	if r.Omitted > 0 {
		fmt.Fprintf(w, "\n%d more statements did not fit.\n", r.Omitted)
	}
}

// outcome says what became of a statement.
func outcome(s *gateway.RefusedStatement) string {
	switch {
	case s.Applied:
		return "applies"
	case s.Condition != nil:
		got := "the request does not have it"
		if len(s.Condition.Got) > 0 {
			got = "the request has " + quoted(s.Condition.Got)
		}
		return fmt.Sprintf("does not apply, for its condition %s on %s wants %s and %s", s.Condition.Operator, plain(s.Condition.Key), quoted(s.Condition.Wanted), got)
	case s.Failed == "InertStatement":
		return "does not apply to anything: it has no action or no resource"
	}
	return fmt.Sprintf("does not apply, for its %s is another", s.Failed)
}

// plain is a text without what a terminal obeys: some of what is printed was chosen
// by those who are refused.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

func quoted(values []string) string {
	if len(values) == 0 {
		return "nothing"
	}
	text := make([]string, 0, len(values))
	for _, v := range values {
		text = append(text, fmt.Sprintf("%q", v))
	}
	return strings.Join(text, " or ")
}

func printGrants(w io.Writer, r *gateway.Refused) {
	if len(r.Grants) > 0 {
		fmt.Fprint(w, "\nGrants:\n")
	}
	for _, g := range r.Grants {
		fmt.Fprintf(w, "  %s to the caller's %s: %s\n", g.Grant, g.To, grantOutcome(&g))
	}
	if r.OmittedGrants > 0 {
		fmt.Fprintf(w, "  %d more did not fit.\n", r.OmittedGrants)
	}
}

// grantOutcome says what became of a grant.
func grantOutcome(g *gateway.RefusedGrant) string {
	switch {
	case g.Pair != nil:
		return fmt.Sprintf("does not cover the request, for the encryption context is to have %s for %q and has %s",
			orNone(g.Pair.Wanted), g.Pair.Key, orNone(g.Pair.Got))
	case g.Failed == "":
		return "covers the request, but something else denies it"
	case g.Failed == "Action":
		return "is for other operations"
	}
	return "does not cover the request, for its " + g.Failed + " is another"
}

func orNone(value *string) string {
	if value == nil {
		return "nothing"
	}
	return fmt.Sprintf("%q", *value)
}

// printAlternatives prints what would let the request pass. What is to be added is
// there as it can be copied.
func printAlternatives(w io.Writer, r *gateway.Refused) {
	switch {
	case r.AlternativesOmitted:
		fmt.Fprint(w, "\nThere are too many ways to allow it to name them.\n")
	case len(r.Alternatives) == 0:
		fmt.Fprint(w, "\nNo change of policies or grants would allow it.\n")
	default:
		fmt.Fprint(w, "\nWhat would allow it:\n")
	}
	for n, changes := range r.Alternatives {
		if n > 0 {
			fmt.Fprint(w, "\nOr:\n")
		}
		for _, c := range changes {
			fmt.Fprintf(w, "- %s\n", plain(c.Text))
			if c.Document != "" {
				fmt.Fprintf(w, "  Where: the %s\n", plain(strings.TrimPrefix(c.Document, "a ")))
			}
			for _, condition := range c.Conditions {
				fmt.Fprintf(w, "  %s %s wants %s and the request has %s\n", condition.Operator, plain(condition.Key), quoted(condition.Wanted), quoted(condition.Got))
			}
			if len(c.Add) > 0 {
				fmt.Fprintf(w, "%s\n", indented(c.Add))
			}
		}
	}
}

func indented(text json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Indent(&b, text, "  ", "  "); err != nil {
		return "  " + string(text)
	}
	return "  " + b.String()
}
