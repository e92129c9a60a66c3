package metadata

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics shows the cache and the pool as they are when they are scraped.
type metrics struct {
	registry prometheus.Registerer // nil: none
	cache    *cache
	pool     *pgxpool.Pool

	batchRecords prometheus.Histogram
	batchBytes   prometheus.Histogram
	batchCommit  prometheus.Histogram
	batchLag     prometheus.Histogram
}

// Metrics of the package.
var (
	descLookups = prometheus.NewDesc("kmsgate_metadata_cache_lookups_total",
		"Look-ups of keys, aliases and access keys, by whether the cache answered.", []string{"outcome"}, nil)
	descRemovals = prometheus.NewDesc("kmsgate_metadata_cache_losses_total",
		"Losses of cached entries: evicted for room, fills voided by a change, gaps in an account's notices, accounts found stale.",
		[]string{"cause"}, nil)
	descEntries = prometheus.NewDesc("kmsgate_metadata_cache_entries", "Entries in the cache.", nil, nil)
	descBytes   = prometheus.NewDesc("kmsgate_metadata_cache_bytes", "Estimated size of the cache in bytes.", nil, nil)
	descLease   = prometheus.NewDesc("kmsgate_metadata_lease",
		"1 while the cache is trusted, 0 while every audit batch asks for the versions of its accounts.", nil, nil)
	descConns = prometheus.NewDesc("kmsgate_metadata_connections",
		"Connections to Postgres, the listening one apart, by what they do.", []string{"state"}, nil)
)

// newMetrics registers the collector; registry may be nil.
func newMetrics(registry prometheus.Registerer, c *cache, pool *pgxpool.Pool) (*metrics, error) {
	histogram := func(name, help string, first, factor float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kmsgate_audit_batch_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(first, factor, 12),
		})
	}
	m := &metrics{
		registry: registry, cache: c, pool: pool,
		batchRecords: histogram("records", "Records in a batch that was committed.", 1, 2),
		batchBytes:   histogram("stored_bytes", "Compressed bytes of a batch that was committed.", 256, 3),
		batchCommit:  histogram("commit_seconds", "Round trip that made a batch durable.", 0.0005, 2),
		batchLag:     histogram("lag_seconds", "From the arrival of a batch's oldest record to its commit.", 0.0005, 2),
	}
	if registry == nil {
		return m, nil
	}
	if err := registry.Register(m); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}

func (m *metrics) unregister() {
	if m.registry != nil {
		m.registry.Unregister(m)
	}
}

// observeBatch is told of every batch of audit records that was committed.
func (m *metrics) observeBatch(b BatchStats) {
	m.batchRecords.Observe(float64(b.Records))
	m.batchBytes.Observe(float64(b.StoredBytes))
	m.batchCommit.Observe(b.Commit.Seconds())
	m.batchLag.Observe(b.Lag.Seconds())
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	counts, entries, bytes, leased := m.cache.snapshot()
	counter := func(d *prometheus.Desc, n uint64, label string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), label)
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	counter(descLookups, counts.hits, "hit")
	counter(descLookups, counts.misses, "miss")
	counter(descRemovals, counts.evictions, "evicted")
	counter(descRemovals, counts.voidFills, "fill_voided")
	counter(descRemovals, counts.gaps, "gap")
	counter(descRemovals, counts.drops, "stale")
	gauge(descEntries, entries)
	gauge(descBytes, bytes)
	lease := 0
	if leased {
		lease = 1
	}
	gauge(descLease, lease)
	stat := m.pool.Stat()
	gauge(descConns, int(stat.AcquiredConns()), "busy")
	gauge(descConns, int(stat.IdleConns()), "idle")
	for _, h := range []prometheus.Histogram{m.batchRecords, m.batchBytes, m.batchCommit, m.batchLag} {
		h.Collect(ch)
	}
}
