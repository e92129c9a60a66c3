package pkcs11

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"kmsgate/hsm/keyspec"
)

// outside tells whether a part of the algorithm is done outside the token.
func (a *AlgorithmProfile) outside() bool { return a.Private == RawInToken || a.Public == InLibrary }

// summaryWidth is as many characters of a list as stand in a line.
const summaryWidth = 100

// writeSummary says what the rest means for those who use keys.
func (p *Profile) writeSummary(w io.Writer, strict bool) {
	if len(p.Keys) == 0 {
		return
	}
	outside := "Done in part outside the token, as long as its configuration is not strict:"
	if strict {
		outside = "STRICT REFUSES, since they are done in part outside the token:"
	}
	fmt.Fprintln(w)
	for _, line := range []struct {
		text  string
		items []string
	}{
		{"Keys that live in the database, wrapped:", p.living("wrapped")},
		{"Keys that live in the token and take up its memory; back the token up for them:", p.living("resident")},
		{"No such keys; CreateKey refuses their specs:", p.living(Nowhere)},
		{"Lacking:", p.lacking()},
		{outside, p.partlyOutside()},
		{"DANGER, the token does not keep its promises:", p.dangers()},
	} {
		writeList(w, line.text, line.items)
	}
}

// writeList writes a list in lines of a bounded width, if it is not empty.
func writeList(w io.Writer, text string, items []string) {
	if len(items) == 0 {
		return
	}
	fmt.Fprintln(w, text)
	line := "   "
	for i, item := range items {
		if i < len(items)-1 {
			item += ","
		}
		if len(line)+1+len(item) > summaryWidth {
			fmt.Fprintln(w, line)
			line = "   "
		}
		line += " " + item
	}
	fmt.Fprintln(w, line)
}

// living are the key specs whose keys live somewhere.
func (p *Profile) living(where string) (specs []string) {
	for _, k := range p.Keys {
		if k.Residency == where && !slices.Contains(specs, string(k.Spec)) {
			specs = append(specs, string(k.Spec))
		}
	}
	return specs
}

// lacking are the algorithms that cannot be used with keys that can be made, and
// the data key pairs of such keys.
func (p *Profile) lacking() (lacking []string) {
	noKeys := map[keyspec.Spec]bool{}
	for _, k := range p.Keys {
		noKeys[k.Spec] = noKeys[k.Spec] || k.Residency == Nowhere
	}
	for _, a := range p.Algorithms {
		if a.Private == Nowhere && !noKeys[a.Spec] {
			lacking = append(lacking, fmt.Sprintf("%s with %s", a.Algorithm, a.Spec))
		}
		row, _ := keyspec.LookupAlgorithm(a.Algorithm)
		if len(a.Messages) > 0 && len(a.Messages) < len(row.Messages) {
			lacking = append(lacking, fmt.Sprintf("%s with %s but for %s", a.Algorithm, a.Spec, joined(a.Messages)))
		}
	}
	for _, d := range p.DataKeyPairs {
		if !d.Works && !noKeys[d.Spec] {
			lacking = append(lacking, fmt.Sprintf("data key pairs of %s", d.Spec))
		}
	}
	return lacking
}

func joined(messages []keyspec.MessageType) string {
	words := make([]string, len(messages))
	for i, m := range messages {
		words[i] = string(m)
	}
	return strings.Join(words, " and ")
}

// partlyOutside are the algorithms of which a part is done outside the token.
func (p *Profile) partlyOutside() (algorithms []string) {
	for i := range p.Algorithms {
		if a := &p.Algorithms[i]; a.outside() {
			algorithms = append(algorithms, fmt.Sprintf("%s with %s", a.Algorithm, a.Spec))
		}
	}
	return algorithms
}

// dangers are what broken promises mean, each once.
func (p *Profile) dangers() (dangers []string) {
	for _, t := range p.Enforced {
		if t.Danger && !slices.Contains(dangers, t.Problem) {
			dangers = append(dangers, t.Problem)
		}
	}
	return dangers
}
