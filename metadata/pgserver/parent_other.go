//go:build !linux

package pgserver

import (
	"os/exec"
	"syscall"
)

// dieWithParent does nothing: only Linux tells a child of its parent's death.
func dieWithParent(*syscall.SysProcAttr) {}

// runWithParent runs a command and returns its output.
func runWithParent(cmd *exec.Cmd) ([]byte, error) { return cmd.CombinedOutput() }
