package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ThalesGroup/crypto11"

	"kmsgate/metadata/audit"
)

const hsmInspectUsage = `Lists the objects of every configured token, or of one, with the attributes that
matter, and says whose they are: service keys of the key stores, keys of KMS that live
in the token, the key of the API's certificate. It reads with another library than
serve does (crypto11), and says what that one cannot read. It fails if something is
missing or has attributes that it must not have. It changes nothing; the audit log has
that it was run.`

func runHSMInspect(ctx context.Context, p *program, args []string) error {
	set := p.flags("hsm inspect -config FILE [-token NAME] [-json]", hsmInspectUsage)
	path := set.String("config", "", "configuration `file` (required)")
	only := set.String("token", "", "`name` of the one token to inspect; all of them without it")
	asJSON := set.Bool("json", false, "print JSON")
	if err := p.parse(set, args); err != nil {
		return err
	}
	return p.withDatabase(ctx, *path, func(i *installation) error {
		tokens, err := i.config.tokensNamed(*only)
		if err != nil {
			return err
		}
		var found inspection
		for _, t := range tokens {
			one, err := i.inspect(ctx, t)
			if err != nil {
				return err
			}
			found.Tokens = append(found.Tokens, *one)
		}
		if *asJSON {
			err = found.writeJSON(p.stdout)
		} else {
			err = found.writeTable(p.stdout)
		}
		if n := found.problems(); err == nil && n > 0 {
			err = fmt.Errorf("%d things are not as they must be", n)
		}
		return err
	})
}

// inspection is what hsm inspect prints. The JSON is for machines and keeps its names.
type inspection struct {
	Tokens []inspectedToken `json:"tokens"`
}

// inspectedToken is one token and what is in it.
type inspectedToken struct {
	Name         string            `json:"name"` // in the configuration
	Label        string            `json:"label"`
	Serial       string            `json:"serial"`
	Manufacturer string            `json:"manufacturer"`
	Model        string            `json:"model"`
	Firmware     string            `json:"firmware"`
	Objects      []inspectedObject `json:"objects"`
	// Unread is what crypto11 could not read; its objects were read beside it.
	Unread []unreadGroup `json:"unreadByCrypto11"`
	// Problems are what is not as it must be, beyond those of single objects.
	Problems []string `json:"problems"`
}

// inspectedObject is one object of a token.
type inspectedObject struct {
	Class   string `json:"class"`
	KeyType string `json:"keyType,omitempty"`
	Label   string `json:"label"`
	ID      string `json:"ckaId"` // in hexadecimal
	// Attributes are those that the object has, of the ones that are asked for.
	Attributes map[string]bool `json:"attributes"`
	// Reader is the library that read it, crypto11 or miekg/pkcs11.
	Reader string `json:"reader"`
	// Is says what of ours the object is; empty for what is not ours.
	Is       string   `json:"is"`
	Problems []string `json:"problems"`
}

// unreadGroup is all objects of a class and key type that crypto11 cannot read.
type unreadGroup struct {
	Class   string `json:"class"`
	KeyType string `json:"keyType"`
	Count   int    `json:"count"`
	Problem string `json:"problem"`
}

// inspect reads a token and judges what is in it.
func (i *installation) inspect(ctx context.Context, t configuredToken) (*inspectedToken, error) {
	known, err := i.knownObjects(ctx, t)
	if err != nil {
		return nil, err
	}
	found := &inspectedToken{Name: t.Name, Objects: []inspectedObject{}, Unread: []unreadGroup{}, Problems: []string{}}
	err = i.withCrypto11(ctx, "hsm inspect", t, func(c *crypto11.Context, serial string) error {
		if err := found.read(c, t); err != nil {
			return err
		}
		return i.record(ctx, adminEvent("hsm inspect", "InspectToken", "", "", time.Now(), audit.Members{
			audit.String("token", t.Name), audit.String("serialNumber", serial), audit.Int("objects", int64(len(found.Objects))),
		}))
	})
	if err != nil {
		return nil, err
	}
	known.judge(found)
	return found, nil
}

// problems counts what is not as it must be.
func (f *inspection) problems() (n int) {
	for _, t := range f.Tokens {
		n += len(t.Problems)
		for _, o := range t.Objects {
			n += len(o.Problems)
		}
	}
	return n
}

func (f *inspection) writeJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(f)
}

// writeTable prints a table a token, and under it what has to be said in words.
func (f *inspection) writeTable(w io.Writer) error {
	var errs []error
	for n, t := range f.Tokens {
		if n > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "Token %s: label %s, serial %s, %s %s, firmware %s\n\n",
			t.Name, printable(t.Label), printable(t.Serial), printable(t.Manufacturer), printable(t.Model), t.Firmware)
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "CLASS\tTYPE\tLABEL\tCKA_ID\tATTRIBUTES\tUSE\tIS")
		for _, o := range t.Objects {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", o.Class, dash(o.KeyType), dash(printable(o.Label)), dash(o.ID),
				dash(o.that(kindState)), dash(o.that(kindUse)), dash(o.Is))
		}
		errs = append(errs, table.Flush())
		if len(t.Objects) == 0 {
			fmt.Fprintln(w, "(no objects)")
		}
		t.writeWords(w)
	}
	return errors.Join(errs...)
}

func (t *inspectedToken) writeWords(w io.Writer) {
	fmt.Fprintln(w)
	wrong := 0
	say := func(problem string) {
		wrong++
		fmt.Fprintf(w, "WRONG: %s\n", problem)
	}
	for _, problem := range t.Problems {
		say(problem)
	}
	for _, o := range t.Objects {
		for _, problem := range o.Problems {
			say(fmt.Sprintf("%s (CKA_ID %s): %s", o.Is, o.ID, problem))
		}
	}
	if wrong == 0 {
		fmt.Fprintln(w, "All that is ours is there and has the attributes that it must have.")
	}
	for _, u := range t.Unread {
		fmt.Fprintf(w, "crypto11 cannot read %d of class %s, type %s: %s\n", u.Count, u.Class, dash(u.KeyType), u.Problem)
	}
}

// that are the attributes of one kind that are true, in the table's order.
func (o *inspectedObject) that(kind attributeKind) string {
	var names []string
	for _, a := range inspectedAttributes {
		if a.kind == kind && o.Attributes[a.name] {
			names = append(names, a.name)
		}
	}
	return strings.Join(names, " ")
}

// printable is text of a token as it may be printed: others have chosen it.
func printable(s string) string {
	if quoted := strconv.QuoteToASCII(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
