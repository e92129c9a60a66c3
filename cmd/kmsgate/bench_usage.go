package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// usage is what the processes have used up so far.
type usage struct {
	server   time.Duration // CPU of this process
	postgres time.Duration // CPU of the cluster's processes; zero where there is no /proc
	mallocs  uint64        // heap objects allocated by this process
	batches  float64       // of audit records
	records  float64       // in them
	commits  float64       // seconds that their commits took
}

func (u usage) minus(o usage) usage {
	return usage{
		u.server - o.server, u.postgres - o.postgres, u.mallocs - o.mallocs,
		u.batches - o.batches, u.records - o.records, u.commits - o.commits,
	}
}

func (e *benchEnvironment) usage() (u usage, err error) {
	if u.server, err = ownCPU(); err != nil {
		return u, err
	}
	if u.postgres, err = treeCPU(e.postmaster); err != nil {
		return u, err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.mallocs = m.Mallocs
	return u, u.gather(e.registry)
}

// gather reads the gateway's own numbers of its audit log.
func (u *usage) gather(registry *prometheus.Registry) error {
	families, err := registry.Gather()
	if err != nil {
		return err
	}
	for _, f := range families {
		switch f.GetName() {
		case "kmsgate_audit_batch_records":
			h := f.GetMetric()[0].GetHistogram()
			u.batches, u.records = float64(h.GetSampleCount()), h.GetSampleSum()
		case "kmsgate_audit_batch_commit_seconds":
			u.commits = f.GetMetric()[0].GetHistogram().GetSampleSum()
		}
	}
	return nil
}

// ownCPU is the CPU time, user and system, that this process has used.
func ownCPU() (time.Duration, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), nil
}

// procTick is the unit of times in /proc: USER_HZ is 100 on all of Linux's
// common architectures (proc(5)).
const procTick = 10 * time.Millisecond

// treeCPU is the CPU time of a process, of its children that live, and of those
// it has waited for.
func treeCPU(pid int) (total time.Duration, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// Fields are counted from the state, behind the name in parentheses.
		_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
		fields := strings.Fields(rest)
		self := filepath.Base(filepath.Dir(path)) == strconv.Itoa(pid)
		if len(fields) < 15 || !self && fields[1] != strconv.Itoa(pid) {
			continue
		}
		times := fields[11:13] // utime, stime
		if self {
			times = fields[11:15] // and those of its dead children
		}
		for _, t := range times {
			ticks, err := strconv.Atoi(t)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", path, err)
			}
			total += time.Duration(ticks) * procTick
		}
	}
	return total, nil
}

// residentBytes is the memory of this process that is in RAM; zero where there
// is no /proc.
func residentBytes() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
