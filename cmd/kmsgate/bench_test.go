package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kmsgate/gateway/sigv4"
	"kmsgate/hsm/keyspec"
)

// runBenchProgram builds the program, since bench starts it once more, and runs
// its bench with a directory for temporary files of its own.
func runBenchProgram(t *testing.T, temporary string, args ...string) []byte {
	t.Helper()
	program := filepath.Join(t.TempDir(), "kmsgate")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{"bench"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+temporary)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("bench: %v\n%s", err, &stderr)
	}
	return out
}

func TestBenchReportsEveryKindAndCleansUp(t *testing.T) {
	t.Parallel()
	temporary := t.TempDir()
	out := runBenchProgram(t, temporary, "-duration=60ms", "-rounds=2", "-connections=3", "-keys=320", "-json",
		"-only=^[A-Za-z]+$|HMAC_256|NIST_P256|RSA_2048 RSAES_OAEP_SHA_256")
	decoder := json.NewDecoder(bytes.NewReader(out))
	decoder.DisallowUnknownFields()
	var r benchReport
	if err := decoder.Decode(&r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	var kinds, signed []string
	for _, o := range r.Operations {
		kinds = append(kinds, o.Name)
		for _, v := range []float64{o.PerSecond.Min, o.Raw.Min, o.RawCPU, o.Ratio, o.P50, o.Allocations, o.Server, o.Client} {
			if v <= 0 {
				t.Errorf("%s: a column is %v, want all of them positive: %+v", o.Name, v, o)
			}
		}
		if o.P99 < o.P50 || o.PerSecond.Max < o.PerSecond.Median || o.PerSecond.Median < o.PerSecond.Min {
			t.Errorf("%s: out of order: %+v", o.Name, o)
		}
		if recorded := o.Batch > 0 && o.Commit > 0; recorded != (o.Name != "healthz") {
			t.Errorf("%s: batches of %v records, committed in %v", o.Name, o.Batch, o.Commit)
		}
	}
	for _, p := range r.Parts {
		signed = append(signed, p.Name)
		for part := range p.Micros {
			if !slices.Contains(parts, part) {
				t.Errorf("%s: unknown part %q", p.Name, part)
			}
		}
	}
	want := []string{
		"healthz", "GetCallerIdentity", "Encrypt", "Decrypt", "GenerateDataKey", "HMAC_256 HMAC_SHA_256",
		"ECC_NIST_P256 ECDSA_SHA_256", "ECC_NIST_P256 ECDH", "RSA_2048 RSAES_OAEP_SHA_256",
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[1:], signed); diff != "" {
		t.Errorf("split into parts (-want +got):\n%s", diff)
	}
	if r.CreateKey == nil || r.CreateKey.Few.Keys != 100 || r.CreateKey.Many.Keys != 320 || r.CreateKey.Ratio <= 0 {
		t.Errorf("CreateKey %+v, want it at 100 and 320 keys", r.CreateKey)
	}
	if r.Memory == nil || r.Memory.Keys != 520 || r.Memory.Resident < r.Memory.GoHeap {
		t.Errorf("memory %+v, want that of 520 keys", r.Memory)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestBenchTable(t *testing.T) {
	t.Parallel()
	r := &benchReport{
		Version: "v1", CPUs: 2, Connections: 16, Rounds: 3, Seconds: 1.5,
		Operations: []benchRow{{
			Name: "Encrypt", PerSecond: spread{8000, 7900, 8100}, Raw: spread{60000, 50000, 70000}, RawCPU: 17.5, Ratio: 0.125, P50: 1900, P99: 4000,
			Allocations: 150, Server: 120, Client: 20, Postgres: 30, Batch: 8, Commit: 500,
		}},
		Parts:     []benchParts{{Name: "Encrypt", Micros: map[string]float64{"HTTP": 30, "token": 70}}},
		CreateKey: &createGrowth{Few: createCost{100, 2000}, Many: createCost{20000, 2100}, Ratio: 1.05},
		Memory:    &benchMemory{Keys: 10000, Resident: 70, GoHeap: 20},
	}
	var b strings.Builder
	if err := r.print(&b); err != nil {
		t.Fatal(err)
	}
	var got [][]string
	for line := range strings.Lines(b.String()) {
		if words := strings.Fields(line); len(words) > 0 {
			got = append(got, words)
		}
	}
	want := [][]string{
		strings.Fields("kmsgate v1, 2 CPUs, 16 connections, 3 rounds of 1.5s"),
		strings.Fields("requests/s lowest–highest raw/s CPU µs of raw p50 ms p99 ms allocs CPU µs: gateway client Postgres audit batch commit ms"),
		strings.Fields("Encrypt 8000 7900–8100 60000 17.5 0.125 1.90 4.00 150 120.0 20.0 30.0 8.0 0.50"),
		strings.Fields("gateway's CPU µs a request HTTP SigV4 JSON policy token audit pipeline log GC scheduler other sum"),
		strings.Fields("Encrypt 30.0 0.0 0.0 0.0 70.0 0.0 0.0 0.0 0.0 0.0 0.0 100.0"),
		strings.Fields("CreateKey: median 2.00 ms at 100 keys, 2.10 ms at 20000 keys, ratio 1.05"),
		strings.Fields("Memory: 70.0 MiB resident after using 10000 keys, 20.0 MiB of it Go's heap (to stay below 100 MiB)"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestBenchSignsAsTheGatewayVerifies(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := benchSigner{Address: "127.0.0.1:4599", Region: benchRegion, AccessKey: "AKIAEXAMPLE", Secret: []byte("secret")}
	for _, c := range []benchCall{
		{Service: "kms", Target: "TrentService.Encrypt", Body: []byte(`{"KeyId":"x"}`)},
		{Service: "sts", Body: []byte("Action=GetCallerIdentity&Version=2011-06-15")},
	} {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(s.request(c, now))))
		if err != nil {
			t.Fatal(err)
		}
		signature, err := sigv4.ParseHeader(r)
		if err != nil {
			t.Fatalf("%s: %v", c.Service, err)
		}
		if err := signature.CheckScope(now, func(region string) bool { return region == benchRegion }, c.Service); err != nil {
			t.Errorf("%s: scope: %v", c.Service, err)
		}
		signature.SetBody(c.Body)
		if err := signature.Verify(sigv4.DeriveKey(s.Secret, signature.Date, signature.Region, signature.Service)); err != nil {
			t.Errorf("%s: %v", c.Service, err)
		}
	}
}

// numberField and bytesField encode fields of protocol buffers.
func numberField(number int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, uint64(number)<<3|wireVarint), v)
}

func bytesField(number int, parts ...[]byte) []byte {
	content := slices.Concat(parts...)
	b := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(number)<<3|wireBytes), uint64(len(content)))
	return append(b, content...)
}

// profileOf is a profile with a sample of one nanosecond for each stack, each
// function at a location of its own.
func profileOf(t *testing.T, stacks ...[]string) []byte {
	t.Helper()
	text := bytesField(profileStringField) // the first string is empty
	id := uint64(0)
	for _, stack := range stacks {
		var locations []byte
		for _, name := range stack {
			id++
			text = append(text, bytesField(profileStringField, []byte(name))...)
			text = append(text, bytesField(profileFunctionField, numberField(functionIDField, id), numberField(functionNameField, id))...)
			text = append(text, bytesField(profileLocationField, numberField(locationIDField, id),
				bytesField(locationLineField, numberField(lineFunctionField, id)))...)
			locations = binary.AppendUvarint(locations, id)
		}
		text = append(text, bytesField(profileSampleField, bytesField(sampleStackField, locations),
			numberField(sampleValuesField, 7), numberField(sampleValuesField, 1))...)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSharesGoToTheInnermostPart(t *testing.T) {
	t.Parallel()
	got, err := sharesOf(profileOf(t,
		[]string{"runtime.memmove", "net/http.(*body).Read", "kmsgate/gateway.(*call).readBody", "net/http.(*conn).serve"},
		[]string{"crypto/sha256.block", "kmsgate/gateway/sigv4.(*Signature).Verify", "kmsgate/gateway.(*call).walk"},
		[]string{"runtime.mallocgc", "runtime.newobject", "kmsgate/gateway.(*call).walk", "net/http.(*conn).serve"},
		[]string{"runtime.scanobject", "runtime.gcDrain", "runtime.gcAssistAlloc", "kmsgate/gateway.(*call).walk"},
		[]string{"runtime.futex", "runtime.findRunnable", "runtime.schedule"},
		[]string{"main.main"},
		[]string{"runtime.cgocall", "kmsgate/hsm/pkcs11._Cfunc_km_gcm_encrypt"},
		[]string{"runtime.cgocall", "kmsgate/hsm/pkcs11._Cfunc_km_gcm_encrypt"},
	))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		"HTTP": 1. / 8, "SigV4": 1. / 8, "pipeline": 1. / 8, "GC": 1. / 8, "scheduler": 1. / 8, "other": 1. / 8, "token": 2. / 8,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("shares (-want +got):\n%s", diff)
	}
	for _, row := range partOf {
		if !slices.Contains(parts, row.part) {
			t.Errorf("%s belongs to %q, which is not printed", row.prefix, row.part)
		}
	}
}

func TestDamagedProfilesAreRefused(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte{profileSampleField<<3 | wireBytes, 200})
	_ = z.Close()
	for name, profile := range map[string][]byte{"not compressed": []byte("x"), "cut off": b.Bytes()} {
		if shares, err := sharesOf(profile); err == nil {
			t.Errorf("%s: %v, want an error", name, slices.Collect(maps.Keys(shares)))
		}
	}
}

func TestBenchRefusesSenselessFlags(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"-duration=0s", "-duration=1h", "-connections=0", "-connections=101", "-rounds=0", "-keys=-1", "-only=Signature", "-only=("} {
		var stderr bytes.Buffer
		p := &program{stdout: &stderr, stderr: &stderr}
		name, _, _ := strings.Cut(flag, "=")
		if code := p.main(t.Context(), []string{"bench", flag}); code != exitUsage || !strings.Contains(stderr.String(), name) {
			t.Errorf("%s: exit code %d, %q, want %d and its name", flag, code, &stderr, exitUsage)
		}
	}
}

func TestEveryAlgorithmOfTheTokenIsBenched(t *testing.T) {
	t.Parallel()
	benched := map[keyspec.Algorithm]bool{keyspec.AlgorithmSymmetricDefault: true}
	for _, a := range benchedAlgorithms {
		benched[a.Algorithm] = true
		row, _ := keyspec.Lookup(a.Spec)
		if !slices.Contains(row.Algorithms[a.Usage], a.Algorithm) {
			t.Errorf("%s keys for %s have no %s", a.Spec, a.Usage, a.Algorithm)
		}
	}
	// What SoftHSM cannot do.
	for _, a := range []keyspec.Algorithm{keyspec.Ed25519PHSHA512, keyspec.MLDSASHAKE256, keyspec.MLKEM} {
		benched[a] = true
	}
	for _, row := range keyspec.Algorithms {
		if !benched[row.Algorithm] {
			t.Errorf("%s is not measured", row.Algorithm)
		}
	}
}

func TestBenchModesReport(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode string
		args []string
		rows int
	}{
		{"rotation", []string{"-keys=1500", "-rounds=1", "-duration=100ms", "-connections=2"}, 4},
		{"keys", []string{"-keys=400", "-rounds=1"}, 8},
	} {
		t.Run(c.mode, func(t *testing.T) {
			temporary := t.TempDir()
			out := runBenchProgram(t, temporary, append([]string{c.mode, "-json"}, c.args...)...)
			decoder := json.NewDecoder(bytes.NewReader(out))
			decoder.DisallowUnknownFields()
			var r modeReport
			if err := decoder.Decode(&r); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			if len(r.Rows) != c.rows {
				t.Errorf("%d rows, want %d: %s", len(r.Rows), c.rows, out)
			}
			for _, row := range r.Rows {
				if len(row.Values) != len(r.Columns) || slices.Max(row.Values) <= 0 {
					t.Errorf("%s: %v, want a value for each of %v and one above zero", row.Name, row.Values, r.Columns)
				}
			}
			if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestBenchModesRefuseSenselessFlags(t *testing.T) {
	t.Parallel()
	for mode, flags := range map[string][]string{
		"rotation": {"-keys=99", "-rounds=0", "-connections=0", "-duration=0s", "-latency=-1s"},
		"keys":     {"-keys=100", "-rounds=0"},
	} {
		for _, flag := range flags {
			var stderr bytes.Buffer
			p := &program{stdout: &stderr, stderr: &stderr}
			name, _, _ := strings.Cut(flag, "=")
			if code := p.main(t.Context(), []string{"bench", mode, flag}); code != exitUsage || !strings.Contains(stderr.String(), name) {
				t.Errorf("%s %s: exit code %d, %q, want %d and its name", mode, flag, code, &stderr, exitUsage)
			}
		}
	}
}

func TestBenchModeTable(t *testing.T) {
	t.Parallel()
	r := &modeReport{Version: "v1", CPUs: 2, Title: "two rounds", Columns: []string{"keys/s", "ratio"}}
	r.add("one", []float64{900, 1100, 1000}, []float64{0.5, 0.25})
	var b strings.Builder
	if err := r.print(&b, false); err != nil {
		t.Fatal(err)
	}
	want := strings.Fields("kmsgate v1, 2 CPUs, two rounds keys/s ratio one 1000 0.375")
	if diff := cmp.Diff(want, strings.Fields(b.String())); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}
