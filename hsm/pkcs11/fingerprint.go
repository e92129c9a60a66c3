package pkcs11

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// Fingerprint is what tells a token and its library from what they were before an
// update, by their own words. What was probed holds while it stays the same. The
// JSON is stored and keeps its names.
type Fingerprint struct {
	Library  string `json:"library"` // manufacturer, description and version (C_GetInfo)
	Model    string `json:"model"`
	Firmware string `json:"firmware"`
	Hardware string `json:"hardware"`
	// Mechanisms are those that the token lists, by name, with the sizes of their
	// keys and their flags (C_GetMechanismInfo).
	Mechanisms map[string]string `json:"mechanisms"`
}

// Fingerprint asks the library and the token what they are.
func (e *Engine) Fingerprint(ctx context.Context) (Fingerprint, error) {
	found := make(chan Fingerprint, 1)
	w := work{mechanism: "probe", slow: true, run: func(*session, handle, [3][]byte) ([]byte, error) {
		f, err := e.fingerprint()
		if err == nil {
			found <- f
		}
		return nil, err
	}}
	if _, err := e.do(ctx, hsm.Call{Class: hsm.Background}, nil, &w); err != nil {
		return Fingerprint{}, err
	}
	return <-found, nil
}

// fingerprint is called inside the gate.
func (e *Engine) fingerprint() (f Fingerprint, err error) {
	library, err := e.module.ctx.GetInfo()
	if err != nil {
		return f, managed("C_GetInfo", err)
	}
	token, err := e.module.tokenInfo(e.slot)
	if err != nil {
		return f, err
	}
	listed, err := e.module.ctx.GetMechanismList(e.slot)
	if err != nil {
		return f, managed("C_GetMechanismList", err)
	}
	f = Fingerprint{
		Library: fmt.Sprintf("%s, %s, version %s", library.ManufacturerID, library.LibraryDescription, version(library.LibraryVersion)),
		Model:   token.Model, Firmware: version(token.FirmwareVersion), Hardware: version(token.HardwareVersion),
		Mechanisms: map[string]string{},
	}
	for _, m := range listed {
		info, err := e.module.mechanismInfo(e.slot, m.Mechanism)
		if lost(err) {
			return f, err
		}
		f.Mechanisms[mechanismName(m.Mechanism)] = describeMechanism(info)
	}
	return f, nil
}

func describeMechanism(info pkcs11.MechanismInfo) string {
	return fmt.Sprintf("keys of %d to %d, flags 0x%X", info.MinKeySize, info.MaxKeySize, info.Flags)
}

// Changes names what is not as it was; none if all is.
func (f *Fingerprint) Changes(was *Fingerprint) []string {
	var changes []string
	for _, part := range []struct{ what, was, is string }{
		{"library", was.Library, f.Library},
		{"model", was.Model, f.Model},
		{"firmware", was.Firmware, f.Firmware},
		{"hardware", was.Hardware, f.Hardware},
	} {
		if part.was != part.is {
			changes = append(changes, fmt.Sprintf("%s: %q is now %q", part.what, part.was, part.is))
		}
	}
	var gone, added, other []string
	for _, name := range slices.Sorted(maps.Keys(was.Mechanisms)) {
		if is, ok := f.Mechanisms[name]; !ok {
			gone = append(gone, name)
		} else if is != was.Mechanisms[name] {
			other = append(other, fmt.Sprintf("%s (%s is now %s)", name, was.Mechanisms[name], is))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Mechanisms)) {
		if _, ok := was.Mechanisms[name]; !ok {
			added = append(added, name)
		}
	}
	for _, part := range []struct {
		what  string
		names []string
	}{{"gone", gone}, {"new", added}, {"other", other}} {
		if len(part.names) > 0 {
			changes = append(changes, "mechanisms "+part.what+": "+strings.Join(part.names, ", "))
		}
	}
	return changes
}
