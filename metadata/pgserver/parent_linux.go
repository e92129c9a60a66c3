package pgserver

import (
	"bytes"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// dieWithParent makes the server shut down when the thread that starts it ends.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGINT }

// runWithParent runs a command that does not outlive this process and returns its
// output.
func runWithParent(cmd *exec.Cmd) ([]byte, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // its own children may hold the pipe when it is killed
	err := cmd.Run()
	return out.Bytes(), err
}
