package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// connectTimeout bounds one attempt to connect.
const connectTimeout = 5 * time.Second

// sessionParams bound what a session may do to others, whatever the server's
// own settings are. They are sent with the connection's first packet.
var sessionParams = map[string]string{
	"application_name":                    "kmsgate",
	"statement_timeout":                   "10s",
	"lock_timeout":                        "5s",
	"idle_in_transaction_session_timeout": "15s",
	"timezone":                            "UTC",
}

// openPool connects, and checks that the server and the schema can be trusted.
func openPool(ctx context.Context, cfg Config) (*pgxpool.Pool, error) {
	poolConfig, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("metadata config: URL: %w", err)
	}
	conn := poolConfig.ConnConfig
	for name, value := range sessionParams {
		conn.RuntimeParams[name] = value
	}
	if !cfg.AllowUnsafeDurability {
		conn.RuntimeParams["synchronous_commit"] = "on"
	}
	if conn.ConnectTimeout == 0 || conn.ConnectTimeout > connectTimeout {
		conn.ConnectTimeout = connectTimeout
	}
	if conn.ValidateConnect == nil { // after a failover, never talk to the standby
		conn.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	poolConfig.MaxConns = cfg.MaxConns
	poolConfig.MaxConnIdleTime = 5 * time.Minute
	poolConfig.HealthCheckPeriod = 30 * time.Second
	poolConfig.PingTimeout = connectTimeout
	poolConfig.AfterConnect = func(_ context.Context, c *pgx.Conn) error {
		utcTimes(c.TypeMap())
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, wrap(err, "connect")
	}
	if err := checkServer(ctx, pool, cfg.AllowUnsafeDurability); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// utcTimes makes timestamps come out in UTC, not in the process's zone.
func utcTimes(m *pgtype.Map) {
	m.RegisterType(&pgtype.Type{
		Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC},
	})
}

const selectDurability = `SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes`

func checkServer(ctx context.Context, pool *pgxpool.Pool, allowUnsafe bool) error {
	var fsync, fullPageWrites string
	if err := pool.QueryRow(ctx, selectDurability).Scan(&fsync, &fullPageWrites); err != nil {
		return wrap(err, "ask for durability")
	}
	if !allowUnsafe && (fsync != "on" || fullPageWrites != "on") {
		return fmt.Errorf("the Postgres server has fsync=%s and full_page_writes=%s: a crash could lose keys that were "+
			"acknowledged; set both to on", fsync, fullPageWrites)
	}
	return checkSchema(ctx, pool)
}

// Ping asks the database for an answer.
func (s *Store) Ping(ctx context.Context) error { return wrap(s.pool.Ping(ctx), "ping") }

const selectClock = `SELECT clock_timestamp() AS now`

// ClockSkew is how far Postgres's clock is ahead of this instance's, give or take
// half the round trip; negative if it is behind.
func (s *Store) ClockSkew(ctx context.Context) (time.Duration, error) {
	var theirs time.Time
	sent := s.clock()
	if err := s.pool.QueryRow(ctx, selectClock).Scan(&theirs); err != nil {
		return 0, wrap(err, "ask for the time")
	}
	came := s.clock()
	// Round(0) takes the wall clock: that is what is compared.
	return theirs.Sub(sent.Round(0).Add(came.Sub(sent) / 2)), nil
}
