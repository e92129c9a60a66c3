package pkcs11

import (
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// present is a token in a slot.
type present struct {
	slot uint
	info pkcs11.TokenInfo
}

func (p present) String() string {
	return fmt.Sprintf("%q (serial %s)", p.info.Label, p.info.SerialNumber)
}

// findSlot finds the one token with this label, or serial, or both.
func (m *Module) findSlot(label, serial string) (slot uint, info pkcs11.TokenInfo, err error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return 0, info, managed("C_GetSlotList", err)
	}
	var there, matching []present
	var blank []uint
	for _, id := range slots {
		t, err := m.tokenInfo(id)
		switch {
		case err != nil:
		case t.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0:
			blank = append(blank, id)
		default:
			there = append(there, present{id, t})
			if (label == "" || t.Label == label) && (serial == "" || t.SerialNumber == serial) {
				matching = append(matching, present{id, t})
			}
		}
	}
	if len(matching) == 1 {
		return matching[0].slot, matching[0].info, nil
	}
	return 0, info, notFound(label, serial, there, matching, blank)
}

// notFound says what is there instead of the one token that is meant, and what
// to do.
func notFound(label, serial string, there, matching []present, blank []uint) error {
	name := func(all []present) string {
		var names []string
		for _, p := range all {
			names = append(names, p.String())
		}
		return strings.Join(names, ", ")
	}
	if len(matching) > 1 {
		return fmt.Errorf("%d tokens match label %q and serial %q: %s; name the one that is meant by its serial", len(matching), label, serial, name(matching))
	}
	var found strings.Builder
	fmt.Fprintf(&found, "0 tokens match label %q and serial %q; present: ", label, serial)
	if len(there) == 0 {
		found.WriteString("none")
	}
	found.WriteString(name(there))
	if len(blank) > 0 {
		fmt.Fprintf(&found, "; not initialised: those in slots %v", blank)
	}
	return fmt.Errorf("%s; write label or serial as the token has them, connect the token, or initialise it with its vendor's tool", &found)
}
