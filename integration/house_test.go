package integration_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	// maxFileLines bounds a file of Go, tests too.
	maxFileLines = 500

	// maxFunctionLines bounds the lines between a function's braces. Tests, which
	// tell a story or hold a table, are free of it; so are tables, which are
	// variables.
	maxFunctionLines = 50
)

// problems are what a rule has found, one sentence each.
type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// forbidden is what no file holds: notes to ourselves belong into an issue, whose
// number makes them acceptable, and nothing here depends on a folder beside the
// repository. The words are put together here so that this file can be searched.
var forbidden = []struct {
	pattern *regexp.Regexp
	why     string
}{
	{regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b($|[^(]|\([^#])`), "a note to ourselves without the number of an issue, as in TO" + "DO(#12)"},
	{regexp.MustCompile(`\bXX` + `X\b`), "a mark that says nothing"},
	{regexp.MustCompile(`\.\./sha` + `red\b`), "a path outside the repository"},
	{regexp.MustCompile(`//\s*nolint\b(?::[a-z,0-9]+)?\s*$`), "an exception from lint without its reason"},
}

func TestHouseGoFiles(t *testing.T) {
	t.Parallel()
	seen := 0
	walk(t, func(name string, content []byte) {
		if filepath.Ext(name) != ".go" {
			return
		}
		seen++
		for _, problem := range goProblems(t, name, content) {
			t.Error(problem)
		}
	})
	if seen < 10 {
		t.Errorf("looked at %d files, want all of them", seen)
	}
}

func TestHouseWords(t *testing.T) {
	t.Parallel()
	walk(t, func(name string, content []byte) {
		for _, problem := range wordProblems(name, content) {
			t.Error(problem)
		}
	})
}

// TestHouseShapeRulesBite shows that each rule finds what breaks it.
func TestHouseShapeRulesBite(t *testing.T) {
	t.Parallel()
	long := "func f() {\n" + strings.Repeat("\tg()\n", maxFunctionLines+1) + "}\n"
	for _, tc := range []struct {
		name, file, content, problem string
	}{
		{"fine", "a.go", "package a\n\nfunc f() {\n" + strings.Repeat("\tg()\n", maxFunctionLines) + "}\n", ""},
		{"long function", "a.go", "package a\n\n" + long, "a.go:3: f has 51 lines"},
		{"long test", "a_test.go", "package a\n\n" + long, ""},
		{"long table", "a.go", "package a\n\nvar t = []int{\n" + strings.Repeat("\t1,\n", 2*maxFunctionLines) + "}\n", ""},
		{"long file", "a_test.go", "package a\n" + strings.Repeat("\n", maxFileLines), "a_test.go has 501 lines"},
		{"init", "a.go", "package a\n\nfunc init() {}\n", "a.go:3: init"},
		{"method named init", "a.go", "package a\n\nfunc (t T) init() {}\n", ""},
		{"note", "a.md", "text\nTO" + "DO: more\n", "a.md:2: a note to ourselves"},
		{"note with a number", "a.md", "TO" + "DO(#12): more\n", ""},
		{"path outside", "a.md", "see ../sha" + "red/design.md\n", "a.md:1: a path outside"},
		{"bare exception", "a.go", "package a\n\nvar x = f() //no" + "lint:errcheck\n", "a.go:3: an exception"},
		{"explained exception", "a.go", "package a\n\nvar x = f() //no" + "lint:errcheck // cannot fail\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := wordProblems(tc.file, []byte(tc.content))
			if filepath.Ext(tc.file) == ".go" {
				got = append(got, goProblems(t, tc.file, []byte(tc.content))...)
			}
			switch {
			case tc.problem == "" && len(got) > 0:
				t.Errorf("problems %q, want none", got)
			case tc.problem != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tc.problem)):
				t.Errorf("problems %q, want one that begins with %q", got, tc.problem)
			}
		})
	}
}

// goProblems returns what is wrong with the shape of a file of Go.
func goProblems(t *testing.T, name string, content []byte) []string {
	t.Helper()
	found := problems{}
	if lines := bytes.Count(content, []byte("\n")); lines > maxFileLines {
		found.add("%s has %d lines, at most %d are allowed: split it", name, lines, maxFileLines)
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, content, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		at := files.Position(f.Pos())
		lines := files.Position(f.Body.Rbrace).Line - files.Position(f.Body.Lbrace).Line - 1
		if lines > maxFunctionLines && !strings.HasSuffix(name, "_test.go") {
			found.add("%s:%d: %s has %d lines, at most %d are allowed: cut it", at.Filename, at.Line, f.Name, lines, maxFunctionLines)
		}
		if f.Name.Name == "init" && f.Recv == nil {
			found.add("%s:%d: init runs unasked: let the caller call it", at.Filename, at.Line)
		}
	}
	return found
}

// wordProblems returns where a file holds what is forbidden.
func wordProblems(name string, content []byte) []string {
	found := problems{}
	if bytes.IndexByte(content, 0) >= 0 {
		return found // not text
	}
	for i, line := range strings.Split(string(content), "\n") {
		for _, word := range forbidden {
			if word.pattern.MatchString(line) {
				found.add("%s:%d: %s: %s", name, i+1, word.why, strings.TrimSpace(line))
			}
		}
	}
	return found
}

// walk calls visit for every file of the repository, by its path from the root.
func walk(t *testing.T, visit func(name string, content []byte)) {
	t.Helper()
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name == ".git" || name == ".kmsgate" || name == "bin" {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || name == "go.sum" {
			return nil
		}
		content, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		visit(name, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
