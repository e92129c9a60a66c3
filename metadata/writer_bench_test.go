package metadata_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/metadata/pgserver"
)

// BenchmarkRecord measures durable records a second on a server that flushes.
func BenchmarkRecord(b *testing.B) {
	server, err := pgserver.Start(b.Context(), pgserver.Config{Temporary: true, Durable: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { server.Stop() })
	if err := metadata.Migrate(b.Context(), server.URL("postgres")); err != nil {
		b.Fatal(err)
	}
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			var batches, commit, stored atomic.Int64
			w := openWriter(b, server.URL("postgres"), metadata.WriterOptions{Observe: func(s metadata.BatchStats) {
				batches.Add(1)
				commit.Add(int64(s.Commit))
				stored.Add(int64(s.StoredBytes))
			}})
			b.SetParallelism((callers + 1) / 2)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				event, uses := benchEvent(b)
				for pb.Next() {
					if err := w.Record(b.Context(), event, uses); err != nil {
						b.Error(err)
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(b.N)/float64(batches.Load()), "records/batch")
			b.ReportMetric(float64(commit.Load())/float64(batches.Load())/1e3, "commit-µs")
			b.ReportMetric(float64(stored.Load())/float64(b.N), "stored-B/record")
		})
	}
}

// benchEvent is a record of the usual size.
func benchEvent(b *testing.B) ([]byte, []audit.Use) {
	e := audit.Event{
		Identity: audit.UserIdentity{
			Type: audit.Root, PrincipalID: account, ARN: "arn:aws:iam::" + account + ":root", Account: account, AccessKeyID: accessKey,
		},
		Time: time.Now(), Source: "kms.amazonaws.com", Name: "Encrypt", Region: region, SourceIP: "10.1.2.3",
		UserAgent: "aws-sdk-go-v2/1.47.8 ua/2.1 os/linux lang/go#1.26.8 md/GOOS#linux md/GOARCH#amd64 api/kms#1.62.4",
		RequestParameters: audit.Members{
			audit.String("keyId", uuid.NewString()), audit.String("encryptionAlgorithm", "SYMMETRIC_DEFAULT"),
			audit.Map("encryptionContext", map[string]string{"tenant": uuid.NewString()}),
		},
		AdditionalEventData: audit.Members{audit.String(audit.KeyMaterialID, fmt.Sprintf("%064d", 1))},
		RequestID:           uuid.NewString(), EventID: uuid.NewString(), ReadOnly: true,
		Resources: []audit.Resource{audit.KeyResource(account, "arn:aws:kms:"+region+":"+account+":key/"+uuid.NewString())},
		Type:      audit.APICall, RecipientAccount: account,
	}
	uses, err := e.Uses()
	if err != nil {
		b.Fatal(err)
	}
	return e.AppendJSON(nil), uses
}
