package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// benchReport is what bench has found out. As JSON its times are microseconds
// unless their names say otherwise.
type benchReport struct {
	Version     string        `json:"version"`
	CPUs        int           `json:"cpus"`
	Connections int           `json:"connections"`
	Rounds      int           `json:"rounds"`
	Seconds     float64       `json:"seconds"` // of a round
	Operations  []benchRow    `json:"operations"`
	Parts       []benchParts  `json:"parts"`
	CreateKey   *createGrowth `json:"createKey,omitempty"`
	Memory      *benchMemory  `json:"memory,omitempty"`
}

// benchRow is a kind of request: medians over the rounds.
type benchRow struct {
	Name        string  `json:"name"`
	PerSecond   spread  `json:"perSecond"`
	Raw         spread  `json:"raw"`    // operations a second of the raw loop
	RawCPU      float64 `json:"rawCPU"` // of one of them
	Ratio       float64 `json:"ratio"`  // to the raw loop of the same round
	P50         float64 `json:"p50"`
	P99         float64 `json:"p99"`
	Allocations float64 `json:"allocations"` // a request
	Server      float64 `json:"serverCPU"`   // a request, as the next two
	Client      float64 `json:"clientCPU"`
	Postgres    float64 `json:"postgresCPU"`
	Batch       float64 `json:"auditBatch"`  // records in a batch
	Commit      float64 `json:"auditCommit"` // of a batch
}

// benchParts is where the CPU time of the gateway goes, a request.
type benchParts struct {
	Name   string             `json:"name"`
	Micros map[string]float64 `json:"micros"`
}

// createGrowth compares CreateKey at few and at many keys.
type createGrowth struct {
	Few   createCost `json:"few"`
	Many  createCost `json:"many"`
	Ratio float64    `json:"ratio"`
}

type createCost struct {
	Keys   int     `json:"keys"`
	Median float64 `json:"median"` // latency
}

type benchMemory struct {
	Keys     int     `json:"keys"`        // that were used
	Resident float64 `json:"residentMiB"` // of the whole process; 0 where there is no /proc
	GoHeap   float64 `json:"goHeapMiB"`
}

// maxResident is what the memory must stay below, in MiB.
const maxResident = 100

func newBenchReport(o benchOptions) *benchReport {
	return &benchReport{
		Version: version(), CPUs: runtime.GOMAXPROCS(0), Connections: o.connections, Rounds: o.rounds, Seconds: o.duration.Seconds(),
	}
}

// spread is the median of rounds, and their extremes.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(values []float64) spread {
	return spread{median(values), slices.Min(values), slices.Max(values)}
}

// median is the median, the mean of the two in the middle where there are two.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// sample is one round of one kind of request.
type sample struct {
	rate, p50, p99, allocations, server, client, postgres, batch, commit float64

	raw rawSample // of the same round
}

// rawSample is one round of a raw loop.
type rawSample struct {
	PerSecond float64 `json:"perSecond"`
	CPU       float64 `json:"cpu"` // microseconds of one operation
}

func newSample(a benchAnswer, u usage) sample {
	s := sample{
		rate: float64(a.Requests) / a.Elapsed.Seconds(), p50: micros(a.P50), p99: micros(a.P99),
		allocations: float64(u.mallocs) / float64(a.Requests), server: perRequest(u.server, a.Requests),
		client: perRequest(a.CPU, a.Requests), postgres: perRequest(u.postgres, a.Requests),
	}
	if u.batches > 0 {
		s.batch, s.commit = u.records/u.batches, u.commits/u.batches*1e6
	}
	return s
}

func newBenchRow(name string, samples []sample) benchRow {
	over := func(of func(i int) float64) []float64 {
		values := make([]float64, len(samples))
		for i := range samples {
			values[i] = of(i)
		}
		return values
	}
	return benchRow{
		Name:        name,
		PerSecond:   spreadOf(over(func(i int) float64 { return samples[i].rate })),
		Raw:         spreadOf(over(func(i int) float64 { return samples[i].raw.PerSecond })),
		RawCPU:      median(over(func(i int) float64 { return samples[i].raw.CPU })),
		Ratio:       median(over(func(i int) float64 { return samples[i].rate / samples[i].raw.PerSecond })),
		P50:         median(over(func(i int) float64 { return samples[i].p50 })),
		P99:         median(over(func(i int) float64 { return samples[i].p99 })),
		Allocations: median(over(func(i int) float64 { return samples[i].allocations })),
		Server:      median(over(func(i int) float64 { return samples[i].server })),
		Client:      median(over(func(i int) float64 { return samples[i].client })),
		Postgres:    median(over(func(i int) float64 { return samples[i].postgres })),
		Batch:       median(over(func(i int) float64 { return samples[i].batch })),
		Commit:      median(over(func(i int) float64 { return samples[i].commit })),
	}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func perRequest(d time.Duration, requests int) float64 { return micros(d) / float64(requests) }

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }

// print writes the report as tables.
func (r *benchReport) print(w io.Writer) error {
	fmt.Fprintf(w, "kmsgate %s, %d CPUs, %d connections, %d rounds of %gs\n\n", r.Version, r.CPUs, r.Connections, r.Rounds, r.Seconds)
	if err := r.printOperations(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := r.printParts(w); err != nil {
		return err
	}
	if c := r.CreateKey; c != nil {
		fmt.Fprintf(w, "\nCreateKey: median %.2f ms at %d keys, %.2f ms at %d keys, ratio %.2f\n",
			c.Few.Median/1e3, c.Few.Keys, c.Many.Median/1e3, c.Many.Keys, c.Ratio)
	}
	if m := r.Memory; m != nil {
		fmt.Fprintf(w, "Memory: %.1f MiB resident after using %d keys, %.1f MiB of it Go's heap (to stay below %d MiB)\n",
			m.Resident, m.Keys, m.GoHeap, maxResident)
	}
	return nil
}

func (r *benchReport) printOperations(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\trequests/s\tlowest–highest\traw/s\tCPU µs\tof raw\tp50 ms\tp99 ms\tallocs\tCPU µs: gateway\tclient\tPostgres\taudit batch\tcommit ms\t")
	for _, o := range r.Operations {
		fmt.Fprintf(t, "%s\t%.0f\t%.0f–%.0f\t%.0f\t%.1f\t%.3f\t%.2f\t%.2f\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t\n", o.Name,
			o.PerSecond.Median, o.PerSecond.Min, o.PerSecond.Max, o.Raw.Median, o.RawCPU, o.Ratio, o.P50/1e3, o.P99/1e3, o.Allocations,
			o.Server, o.Client, o.Postgres, o.Batch, o.Commit/1e3)
	}
	return t.Flush()
}

func (r *benchReport) printParts(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "gateway's CPU µs a request\t%s\tsum\t\n", strings.Join(parts, "\t"))
	for _, p := range r.Parts {
		sum := 0.0
		fmt.Fprint(t, p.Name)
		for _, part := range parts {
			fmt.Fprintf(t, "\t%.1f", p.Micros[part])
			sum += p.Micros[part]
		}
		fmt.Fprintf(t, "\t%.1f\t\n", sum)
	}
	return t.Flush()
}
