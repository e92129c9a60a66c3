package integration_test

import (
	"context"
	"fmt"
	"os"
	"strings"
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
func (i *instance) closing() (found problems) {
	text, err := i.auditText(context.Background())
	if err != nil {
		found.add("audit log: %v", err)
	}
	events, err := parseEvents(text)
	if err != nil {
		found.add("audit log: %v", err)
	}
	found = append(found, unexpectedErrors(events)...)
	found = append(found, malformedEvents(events)...)
	found = append(found, leaks("the audit log", string(text))...)
	found = append(found, i.chainFaults(len(events))...)
	if code := i.stop(); code != 0 {
		found.add("exit code %d after SIGTERM, want 0\n%s", code, i.stderr)
	}
	found = append(found, leaks("the log", i.stderr.String())...)
	if log := i.stderr.String(); strings.Contains(log, "panic") || strings.Contains(log, "level=ERROR") {
		found.add("a panic or an error in the log:\n%s", log)
	}
	return found
}
