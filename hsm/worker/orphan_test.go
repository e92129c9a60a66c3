package worker

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"kmsgate/hsm/pkcs11"
	"kmsgate/softhsm"
)

// gatewayArg makes the test binary a gateway with a worker, which it is told in its
// environment, until it is killed.
const gatewayArg = "serve-as-gateway"

func newConfigOf(tok softhsm.Token) pkcs11.Config {
	return pkcs11.Config{Module: tok.Module, Label: tok.Label, PIN: pkcs11.PINFile(tok.PINFile)}
}

func beGateway() {
	w := New(workerArgs, nil)
	_, err := w.Open(context.Background(), pkcs11.Config{
		Module: os.Getenv("TEST_MODULE"), Label: os.Getenv("TEST_LABEL"), PIN: pkcs11.PINFile(os.Getenv("TEST_PIN_FILE")),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(w.pid())
	select {}
}

func TestWorkerEndsWithItsGateway(t *testing.T) {
	tok, err := softhsm.Provision(t.TempDir(), "test")
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	gateway := exec.Command(self, gatewayArg)
	gateway.Stderr = os.Stderr
	gateway.Env = append(os.Environ(), "TEST_MODULE="+tok.Module, "TEST_LABEL="+tok.Label, "TEST_PIN_FILE="+tok.PINFile)
	out, err := gateway.StdoutPipe()
	must(t, err)
	must(t, gateway.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	must(t, err)
	if isGone(pid) {
		t.Fatal("there is no worker")
	}
	must(t, gateway.Process.Kill())
	eventually(t, "the worker ends", func() bool { return isGone(pid) })
	if err := gateway.Wait(); err == nil {
		t.Error("the gateway was not killed")
	}
}
