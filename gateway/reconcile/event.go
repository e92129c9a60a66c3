package reconcile

import (
	"time"

	"github.com/google/uuid"

	"kmsgate/gateway/arn"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// eventOf is the finished record of what a job did to a key (CloudTrail's service
// events of KMS); details are what else there is to say.
func eventOf(k metadata.KeyName, name string, at time.Time, details ...audit.Member) []byte {
	keyARN := arn.KeyARNOf(k.Region, k.Account, k.ID)
	event := audit.Event{
		Identity: audit.Internal(k.Account), Time: at, Source: "kms.amazonaws.com", Name: name, Region: k.Region,
		SourceIP: "AWS Internal", UserAgent: "AWS Internal", EventID: uuid.NewString(), Type: audit.ServiceEvent,
		Resources:           []audit.Resource{audit.KeyResource(k.Account, keyARN)},
		ServiceEventDetails: append(audit.Members{audit.String("keyId", k.ID)}, details...),
		RecipientAccount:    k.Account,
	}
	return event.AppendJSON(nil)
}
