package pkcs11

import (
	"encoding/json"
	"testing"

	"kmsgate/softhsm"
)

func TestNSSX(t *testing.T) {
	tok, err := softhsm.ProvisionNSS(t.TempDir())
	must(t, err)
	e, err := Open(t.Context(), Config{Module: tok.Module, InitArguments: tok.InitArguments, Label: tok.Label, PIN: PINFile(tok.PINFile)})
	must(t, err)
	defer e.Close()
	b, _ := json.MarshalIndent(e.Profile(), "", " ")
	t.Logf("%s", b)
}
