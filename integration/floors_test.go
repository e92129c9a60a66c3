package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// module is the path that all packages of ours begin with.
const module = "kmsgate/"

// floors says on which floor each package stands. A package imports only from
// floors below its own, so that there are no cycles of thought either: what
// stands below knows nothing of what it is used for.
var floors = map[string]int{
	"integration": 6,

	"cmd/kmsgate": 5,

	"gateway": 4,

	"hsm/worker":            3,
	"gateway/identity":      3,
	"gateway/reconcile":     3,
	"metadata/metadatatest": 3,

	"metadata":         2,
	"hsm/pkcs11":       2,
	"hsm/cluster":      2,
	"hsm/hsmtest":      2,
	"gateway/sigv4":    2,
	"gateway/session":  2,
	"gateway/awsjson":  2,
	"gateway/awsquery": 2,
	"gateway/envelope": 2,

	"policy":          1,
	"hsm":             1,
	"hsm/der":         1,
	"metadata/audit":  1,
	"gateway/kmsapi":  1,
	"softhsm/pqtoken": 1,

	"hsm/keyspec":         0,
	"gateway/arn":         0,
	"metadata/migrations": 0,
	"metadata/pgserver":   0,
	"softhsm":             0,
}

// forTests are packages that only tests import: what they need must not be
// linked into the program.
var forTests = []string{"softhsm/pqtoken"}

// testFloor is the floor that every test may import up to, for helpers such as
// metadatatest and hsmtest, and for tokens and stores to test against.
const testFloor = 3

// anywhere lets a library be imported by every package.
var anywhere = []string{"..."}

// libraries says which packages may import a library, by the beginning of its
// path. "x/..." stands for x and everything below it. What is not here may not be
// imported at all: a new library is weighed before it is used.
var libraries = map[string][]string{
	"C":                                  {"hsm/pkcs11"},
	"unsafe":                             {"hsm/pkcs11", "softhsm"},
	"github.com/miekg/pkcs11":            {"hsm/pkcs11", "softhsm", "cmd/..."},
	"github.com/ThalesGroup/crypto11":    {"cmd/..."},
	"github.com/jackc/pgx/v5":            {"metadata", "metadata/metadatatest"},
	"github.com/pressly/goose/v3":        {"metadata"},
	"github.com/go-json-experiment/json": {"gateway/awsjson"},
	"github.com/go-jose/go-jose/v4":      {"gateway/identity"},
	"github.com/klauspost/compress/zstd": {"metadata/audit"},
	"github.com/prometheus":              {"gateway", "gateway/reconcile", "metadata", "cmd/..."},
	"github.com/go-chi/chi/v5":           {"gateway", "cmd/..."},
	"github.com/google/uuid":             {"gateway/...", "metadata/...", "cmd/..."},
	"go.yaml.in/yaml/v3":                 {"cmd/..."},
	"golang.org/x/time/rate":             {"gateway"},
	"golang.org/x/sync":                  anywhere,
	"github.com/testcontainers":          {"metadata/metadatatest"},
	"github.com/moby/moby/api":           {"metadata/metadatatest"},
	"github.com/cloudflare/circl":        {"softhsm/pqtoken"},
	"filippo.io/mldsa":                   {"softhsm/pqtoken"},
}

// testLibraries says which packages' tests may import a library, beyond those
// that their code imports.
var testLibraries = map[string][]string{
	"github.com/google/go-cmp":        anywhere,
	"pgregory.net/rapid":              anywhere,
	"go.uber.org/goleak":              anywhere,
	"unsafe":                          anywhere,
	"github.com/rogpeppe/go-internal": {"cmd/...", "integration"},
	"github.com/aws":                  {"gateway/...", "cmd/...", "integration"},
	"github.com/go-jose/go-jose/v4":   {"gateway/...", "integration"},
	"github.com/testcontainers":       {"metadata/metadatatest", "integration"},
	"github.com/jackc/pgx/v5":         {"metadata/...", "gateway/reconcile", "integration"},
	"github.com/miekg/pkcs11":         {"hsm/...", "softhsm/...", "integration"},
	"filippo.io/mldsa":                {"hsm/...", "integration"},
	"github.com/prometheus":           {"gateway/...", "cmd/...", "integration"},
	"github.com/decred/dcrd":          {"integration"},
	"github.com/google/uuid":          {"integration"},
}

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// name returns the path of the package below the module.
func (p listed) name() string { return strings.TrimPrefix(p.ImportPath, module) }

func TestHouseFloors(t *testing.T) {
	t.Parallel()
	packages := listPackages(t)
	for _, problem := range floorProblems(packages, floors) {
		t.Error(problem)
	}
	for name := range floors {
		if !slices.ContainsFunc(packages, func(p listed) bool { return p.name() == name }) {
			t.Logf("the floor of %s is known, and there is no such package yet", name)
		}
	}
}

func TestHouseLibraries(t *testing.T) {
	t.Parallel()
	for _, problem := range libraryProblems(listPackages(t), libraries, testLibraries) {
		t.Error(problem)
	}
}

// TestHouseRulesBite shows that each rule finds what breaks it.
func TestHouseRulesBite(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		pkg     listed
		problem string // empty: there is none
	}{
		{"down", listed{ImportPath: "kmsgate/hsm", Imports: []string{"kmsgate/hsm/keyspec", "fmt"}}, ""},
		{"up", listed{ImportPath: "kmsgate/hsm", Imports: []string{"kmsgate/metadata"}}, "hsm (floor 1) imports metadata (floor 2)"},
		{"sibling", listed{ImportPath: "kmsgate/hsm", Imports: []string{"kmsgate/policy"}}, "hsm (floor 1) imports policy (floor 1)"},
		{"unknown package", listed{ImportPath: "kmsgate/util"}, "util stands on no floor"},
		{"unknown import", listed{ImportPath: "kmsgate/hsm", Imports: []string{"kmsgate/util"}}, "hsm imports util, which stands on no floor"},
		{"package for tests", listed{ImportPath: "kmsgate/hsm/pkcs11", Imports: []string{"kmsgate/softhsm/pqtoken"}}, "hsm/pkcs11 imports softhsm/pqtoken, which is for tests"},
		{"package for tests in a test", listed{ImportPath: "kmsgate/hsm/pkcs11", TestImports: []string{"kmsgate/softhsm/pqtoken"}}, ""},
		{"impure policy", listed{ImportPath: "kmsgate/policy", Imports: []string{"kmsgate/hsm/keyspec"}}, "policy imports hsm/keyspec"},
		{"test goes up", listed{ImportPath: "kmsgate/hsm", TestImports: []string{"kmsgate/gateway"}}, "a test of hsm imports gateway"},
		{"test for helpers", listed{ImportPath: "kmsgate/metadata", XTestImports: []string{"kmsgate/metadata", "kmsgate/metadata/metadatatest"}}, ""},
		{"external test goes up", listed{ImportPath: "kmsgate/metadata", XTestImports: []string{"kmsgate/gateway"}}, "a test of metadata imports gateway"},
		{"library in its place", listed{ImportPath: "kmsgate/metadata", Imports: []string{"github.com/jackc/pgx/v5/pgxpool"}}, ""},
		{"library elsewhere", listed{ImportPath: "kmsgate/gateway", Imports: []string{"github.com/jackc/pgx/v5"}}, "gateway imports github.com/jackc/pgx/v5"},
		{"library with a longer name", listed{ImportPath: "kmsgate/metadata", Imports: []string{"github.com/jackc/pgx/v5x"}}, "metadata imports github.com/jackc/pgx/v5x"},
		{"library of nobody", listed{ImportPath: "kmsgate/gateway", Imports: []string{"example.com/left-pad"}}, "gateway imports example.com/left-pad"},
		{"cgo elsewhere", listed{ImportPath: "kmsgate/gateway", Imports: []string{"C"}}, "gateway imports C"},
		{"test library in a test", listed{ImportPath: "kmsgate/hsm", TestImports: []string{"github.com/google/go-cmp/cmp"}}, ""},
		{"test library in code", listed{ImportPath: "kmsgate/hsm", Imports: []string{"github.com/google/go-cmp/cmp"}}, "hsm imports github.com/google/go-cmp/cmp"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			one := []listed{tc.pkg}
			got := append(floorProblems(one, floors), libraryProblems(one, libraries, testLibraries)...)
			switch {
			case tc.problem == "" && len(got) > 0:
				t.Errorf("problems %q, want none", got)
			case tc.problem != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tc.problem)):
				t.Errorf("problems %q, want one that begins with %q", got, tc.problem)
			}
		})
	}
}

// floorProblems returns what is wrong with the imports among packages of ours.
func floorProblems(packages []listed, floors map[string]int) []string {
	found := problems{}
	for _, p := range packages {
		floor, known := floors[p.name()]
		if !known {
			found.add("%s stands on no floor: give it one in floors", p.name())
			continue
		}
		for _, imported := range ours(p.Imports) {
			below, known := floors[imported]
			switch {
			case !known:
				found.add("%s imports %s, which stands on no floor", p.name(), imported)
			case slices.Contains(forTests, imported):
				found.add("%s imports %s, which is for tests only", p.name(), imported)
			case p.name() == "policy" && imported != "gateway/arn":
				found.add("%s imports %s, and it is to know nothing but gateway/arn", p.name(), imported)
			case below >= floor:
				found.add("%s (floor %d) imports %s (floor %d): imports go down", p.name(), floor, imported, below)
			}
		}
		for _, imported := range ours(slices.Concat(p.TestImports, p.XTestImports)) {
			below, known := floors[imported]
			if imported != p.name() && (!known || below > max(floor, testFloor)) {
				found.add("a test of %s imports %s: too far up", p.name(), imported)
			}
		}
	}
	return found
}

// ours returns the imports that are packages of this module, below it.
func ours(imports []string) []string {
	var found []string
	for _, imported := range imports {
		if name, ok := strings.CutPrefix(imported, module); ok {
			found = append(found, name)
		}
	}
	return found
}

// libraryProblems returns which packages import a library outside its place.
func libraryProblems(packages []listed, libraries, testLibraries map[string][]string) []string {
	found := problems{}
	for _, p := range packages {
		for _, imported := range p.Imports {
			if isLibrary(imported) && !permits(libraries, imported, p.name()) {
				found.add("%s imports %s, which is not for it: see libraries", p.name(), imported)
			}
		}
		for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
			if isLibrary(imported) && !permits(libraries, imported, p.name()) && !permits(testLibraries, imported, p.name()) {
				found.add("a test of %s imports %s, which is not for it: see testLibraries", p.name(), imported)
			}
		}
	}
	return found
}

// isLibrary reports whether an import is neither ours nor of the standard library,
// or reaches around Go's guarantees.
func isLibrary(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return strings.Contains(first, ".") || imported == "C" || imported == "unsafe"
}

// permits reports whether a table lets the package name import a library.
func permits(table map[string][]string, imported, name string) bool {
	for library, places := range table {
		if isBelow(imported, library) && slices.ContainsFunc(places, func(place string) bool { return isAt(name, place) }) {
			return true
		}
	}
	return false
}

// isBelow reports whether a path is root or lies below it.
func isBelow(name, root string) bool {
	return name == root || strings.HasPrefix(name, root+"/")
}

// isAt reports whether a package is the place, or one of those "x/..." means.
func isAt(name, place string) bool {
	if root, ok := strings.CutSuffix(place, "..."); ok {
		return root == "" || isBelow(name, path.Clean(root))
	}
	return name == place
}

// listPackages asks Go for all packages of the module.
func listPackages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v: %s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var packages []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 10 {
		t.Fatalf("go list found %d packages, want all of them", len(packages))
	}
	return packages
}
