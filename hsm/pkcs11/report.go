package pkcs11

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// ways are the ways to do an algorithm as people read them.
var ways = map[string]string{
	InToken: "token", RawInToken: "token, unpadding outside", InLibrary: "outside, public key only", Nowhere: "no", "": "",
}

// Write writes the profile as tables for people. With strict it says what
// strict would refuse.
func (p *Profile) Write(w io.Writer, strict bool) error {
	var aligned strings.Builder
	t := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	for _, part := range []func(io.Writer){
		p.writeHead, func(w io.Writer) { p.writeSummary(w, strict) }, func(w io.Writer) { p.writeKeys(w, strict) }, p.writeWraps,
		p.writeDataKeyPairs, func(w io.Writer) { p.writeImported(w, strict) }, p.writeTrials, p.writeMechanisms,
	} {
		part(t)
	}
	err := t.Flush()
	for line := range strings.Lines(aligned.String()) {
		if err == nil {
			_, err = fmt.Fprintln(w, strings.TrimRight(line, " \n"))
		}
	}
	return err
}

func (p *Profile) writeHead(w io.Writer) {
	if l := p.Library; l.Path != "" {
		fmt.Fprintf(w, "Library\t%s: %s, %s, version %s, Cryptoki %s\n", l.Path, l.Manufacturer, l.Description, l.Version, l.Cryptoki)
	}
	if t := p.Token; t.Serial != "" {
		fmt.Fprintf(w, "Token\t%q, serial %s: %s, %s, hardware %s, firmware %s\n", t.Label, t.Serial, t.Manufacturer, t.Model, t.Hardware, t.Firmware)
	}
	if p.GCM.IV == "" {
		return // the token was only described
	}
	fmt.Fprintf(w, "AES-GCM\tIV %s, %d bytes%s\n", p.GCM.IV, p.GCM.IVBytes, emptyIVText[p.GCM.EmptyIV])
	fmt.Fprintf(w, "EC points\t%s\n", p.ECPoint)
	fmt.Fprintf(w, "Transport\t%s\n", p.Transport.text())
	if s := p.Sessions; s != nil {
		limit := "the token names no limit"
		if s.Claimed != 0 {
			limit = fmt.Sprintf("the token names %d", s.Claimed)
		}
		more := "more were not tried"
		if s.Refused {
			more = "one more was refused"
		}
		fmt.Fprintf(w, "Sessions\t%d opened at once, %s; %s\n", s.Opened, more, limit)
	}
	if f := p.Find; f != nil {
		fmt.Fprintf(w, "Search\t%.0f µs for a CKA_ID among %d objects\n", f.Microseconds, f.Objects)
	}
	for _, c := range p.Codes {
		fmt.Fprintf(w, "Code\t%s for a %s\n", c.Code, c.For)
	}
}

// text says whether keys travel.
func (p *TransportProfile) text() string {
	if p.Problem != "" {
		return "keys do not travel to other tokens: " + p.Problem
	}
	return fmt.Sprintf("keys travel to other tokens by AES key wrap (%s) under RSAES-OAEP (%s)", strings.Join(p.Wraps, ", "), strings.Join(p.OAEP, ", "))
}

var emptyIVText = map[string]string{
	"": "", "refused": "; a missing IV is refused", "random": "; a missing IV is replaced by a random one",
	"constant": "; a missing IV is replaced by a constant one (the engine never leaves it out)",
}

// writeKeys says what can be done with keys of each spec.
func (p *Profile) writeKeys(w io.Writer, strict bool) {
	if len(p.Keys) == 0 {
		return
	}
	fmt.Fprintf(w, "\nKEY SPEC\tUSAGE\tKEYS LIVE\tALGORITHM\tPRIVATE STEP\tPUBLIC STEP\tNOTE\n")
	for _, k := range p.Keys {
		if k.Residency == Nowhere {
			fmt.Fprintf(w, "%s\t%s\tno such keys\t\t\t\t%s\n", k.Spec, k.Usage, k.Problem)
			continue
		}
		spec, usage, lives := string(k.Spec), string(k.Usage), liveText[k.Residency]
		for _, a := range p.Algorithms {
			if a.Spec != k.Spec || usageOf(a.Algorithm) != k.Usage {
				continue
			}
			note := a.Problem
			if strict && a.outside() {
				note = "STRICT REFUSES what is done outside; " + note
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", spec, usage, lives, a.Algorithm, ways[a.Private], ways[a.Public], note)
			spec, usage, lives = "", "", ""
		}
	}
}

var liveText = map[string]string{"wrapped": "in the database, wrapped", "resident": "in the token"}

func (p *Profile) writeWraps(w io.Writer) {
	if len(p.Wraps) == 0 {
		return
	}
	fmt.Fprintf(w, "\nWRAP MECHANISM\tKEY\tCOMES BACK\tNOTE\n")
	for _, r := range p.Wraps {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Mechanism, r.Key, yesNo(r.Works), r.Problem)
	}
}

func (p *Profile) writeDataKeyPairs(w io.Writer) {
	if len(p.DataKeyPairs) == 0 {
		return
	}
	fmt.Fprintf(w, "\nDATA KEY PAIRS\tMADE\tNOTE\n")
	for _, r := range p.DataKeyPairs {
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.Spec, yesNo(r.Works), r.Problem)
	}
}

// importWays are the ways in which imported material gets in, as people read them.
var importWays = map[string]string{InToken: "in the token", RawInToken: "through the process", Nowhere: "no"}

func (p *Profile) writeImported(w io.Writer, strict bool) {
	if len(p.Imported) == 0 {
		return
	}
	fmt.Fprintf(w, "\nIMPORTED MATERIAL UNDER\tAES, HMAC\tRSA, EC\tNOTE\n")
	for _, r := range p.Imported {
		note := r.Problem
		if strict && (r.Secrets == RawInToken || r.Pairs == RawInToken) {
			note = "STRICT REFUSES what passes through the process; " + note
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Algorithm, importWays[r.Secrets], importWays[r.Pairs], note)
	}
}

func (p *Profile) writeTrials(w io.Writer) {
	if len(p.Imports) > 0 {
		fmt.Fprintf(w, "\nIMPORT\tWORKS\tNOTE\n")
	}
	for _, t := range p.Imports {
		fmt.Fprintf(w, "%s\t%s\t%s\n", t.What, yesNo(t.Works), t.Problem)
	}
	if len(p.Enforced) > 0 {
		fmt.Fprintf(w, "\nPROMISE\tKEPT\tNOTE\n")
	}
	for _, t := range p.Enforced {
		kept, note := "yes", t.Problem
		switch {
		case t.Danger:
			kept, note = "NO", "DANGER: "+note
		case !t.Works:
			kept = "unknown"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", t.What, kept, note)
	}
}

func (p *Profile) writeMechanisms(w io.Writer) {
	if len(p.Mechanisms) == 0 {
		return
	}
	fmt.Fprintf(w, "\nMECHANISM LISTED\tKEY SIZES\tFOR\n")
	for _, m := range p.Mechanisms {
		fmt.Fprintf(w, "%s\t%d-%d\t%s\n", m.Mechanism, m.MinKey, m.MaxKey, strings.Join(m.Flags, " "))
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
