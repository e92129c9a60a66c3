package metadata_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"kmsgate/metadata/metadatatest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := metadatatest.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the server for tests:", err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
