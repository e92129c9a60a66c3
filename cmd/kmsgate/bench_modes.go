package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"text/tabwriter"
)

// benchModes are what bench measures when its first argument says so.
var benchModes = map[string]func(context.Context, *program, []string) error{
	"rotation": runBenchRotation,
	"keys":     runBenchKeys,
}

// modeReport is what a mode has found out: a table.
type modeReport struct {
	Version string    `json:"version"`
	CPUs    int       `json:"cpus"`
	Title   string    `json:"title"`
	Columns []string  `json:"columns"`
	Rows    []modeRow `json:"rows"`
}

// modeRow is a row of a mode's table: medians over the rounds.
type modeRow struct {
	Name   string    `json:"name"`
	Values []float64 `json:"values"`
}

func newModeReport(columns []string, title string, args ...any) *modeReport {
	return &modeReport{Version: version(), CPUs: runtime.GOMAXPROCS(0), Title: fmt.Sprintf(title, args...), Columns: columns}
}

// add adds a row of the medians of what the rounds have measured, by column.
func (r *modeReport) add(name string, columns ...[]float64) {
	row := modeRow{Name: name}
	for _, c := range columns {
		row.Values = append(row.Values, median(c))
	}
	r.Rows = append(r.Rows, row)
}

// print writes the report as a table, or as JSON.
func (r *modeReport) print(w io.Writer, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	fmt.Fprintf(w, "kmsgate %s, %d CPUs, %s\n\n", r.Version, r.CPUs, r.Title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, c := range r.Columns {
		fmt.Fprintf(t, "\t%s", c)
	}
	fmt.Fprintln(t, "\t")
	for _, row := range r.Rows {
		fmt.Fprint(t, row.Name)
		for _, v := range row.Values {
			fmt.Fprintf(t, "\t%.*f", decimals(v), v)
		}
		fmt.Fprintln(t, "\t")
	}
	return t.Flush()
}

// decimals is how many decimals of a value are worth printing.
func decimals(v float64) int {
	if v >= 100 {
		return 0
	}
	return 3
}
