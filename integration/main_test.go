package integration_test

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

// leftovers is what the tests share and TestMain clears away.
var leftovers residue

// residue is folders and the shared gateway, once they are there.
type residue struct {
	mu      sync.Mutex
	dirs    []string
	gateway *instance // nil if no test has asked for it
}

func (r *residue) add(dir string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirs = append(r.dirs, dir)
}

func (r *residue) started(i *instance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gateway = i
}

func TestMain(m *testing.M) {
	code := m.Run()
	if i := leftovers.gateway; i != nil {
		for _, problem := range i.closing() {
			fmt.Println("FAIL: the shared gateway:", problem)
			code = 1
		}
	}
	for _, dir := range leftovers.dirs {
		_ = os.RemoveAll(dir) // left to the system's cleaning
	}
	os.Exit(code)
}

// closing looks at what all tests together have left behind, stops the gateway,
// and says what is wrong.
func (i *instance) closing() (problems problems) {
	if code := i.stop(); code != 0 {
		problems.add("exit code %d after SIGTERM, want 0\n%s", code, i.stderr)
	}
	return problems
}
