package pkcs11

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

// acknowledged is a key that a process said to have made, and a ciphertext under it.
type acknowledged struct {
	Key    hsm.Key
	Sealed hsm.Ciphertext
}

// victimSite says to a process of the test what to open, and that it is the one
// that will crash.
const victimSite = "KMSGATE_TEST_VICTIM"

type site struct {
	Module, Label, PINFile string
	Rows                   []hsm.ServiceKey
}

// TestCrashesLoseNoKey has the library kill a process, or read nowhere, while it
// makes keys and uses them: what the process has acknowledged works in the next one.
func TestCrashesLoseNoKey(t *testing.T) {
	if said := os.Getenv(victimSite); said != "" {
		beVictim(t, []byte(said))
		return
	}
	tok := newToken(t)
	cfg := configFor(tok)
	shim := newShim(t, &cfg)
	rows := madeServiceKeys(t, cfg)
	said, err := json.Marshal(site{shim.Module, tok.Label, tok.PINFile, rows})
	must(t, err)
	for _, f := range []softhsm.Function{softhsm.GenerateKey, softhsm.WrapKey, softhsm.Encrypt, softhsm.UnwrapKey, softhsm.Sign, softhsm.DestroyObject} {
		for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSEGV} {
			shim.Heal()
			keys := crash(t, said, func() {
				shim.Inject(f, softhsm.Fault{Signal: signal, Every: 3})
			})
			shim.Heal()
			cfg.ServiceKeys = rows
			e, err := Open(t.Context(), cfg)
			must(t, err)
			for _, a := range keys {
				got, err := e.Decrypt(t.Context(), client, &a.Key, a.Sealed, nil)
				must(t, right(got, []byte("plaintext"), err))
			}
			must(t, e.Close())
			if len(keys) == 0 {
				t.Errorf("%s, %v: nothing was acknowledged before the crash", f, signal)
			}
		}
	}
}

// crash runs a process until it dies of what happens after its first keys, and
// returns those that it has acknowledged.
func crash(t *testing.T, said []byte, happens func()) (keys []acknowledged) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestCrashesLoseNoKey$")
	child.Env = append(os.Environ(), victimSite+"="+string(said))
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	defer time.AfterFunc(time.Minute, func() { _ = child.Process.Kill() }).Stop()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var a acknowledged
		if json.Unmarshal(lines.Bytes(), &a) == nil {
			keys = append(keys, a)
		}
		if len(keys) == 3 {
			happens()
		}
	}
	if exit, ok := errors.AsType[*exec.ExitError](child.Wait()); !ok || exit.ExitCode() == 1 {
		t.Errorf("the process ended with %v, want it to die of its library", exit)
	}
	return keys
}

// beVictim makes keys, uses them, and says so, until it dies.
func beVictim(t *testing.T, said []byte) {
	var s site
	must(t, json.Unmarshal(said, &s))
	e, err := Open(t.Context(), Config{Module: s.Module, Label: s.Label, PIN: PINFile(s.PINFile), ServiceKeys: s.Rows})
	must(t, err)
	out := json.NewEncoder(os.Stdout)
	for {
		k := generate(t, e, "k")
		sealed, err := e.Encrypt(t.Context(), client, k, []byte("plaintext"), nil)
		must(t, err)
		must(t, out.Encode(acknowledged{*k, sealed}))
	}
}
