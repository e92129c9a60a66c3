package gateway

import (
	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// deletionOperations have keys be deleted, or not.
var deletionOperations = []operation{
	{
		service: serviceKMS, name: "CancelKeyDeletion", bucket: "CancelKeyDeletion",
		targets: []target{{
			kind: onKey, member: "KeyId", action: "CancelKeyDeletion", forms: arn.KeyForms,
			states: metadata.CancellingDeletion.From, otherwise: kmsapi.NotPendingDeletion,
		}},
		records: []string{"KeyId"},
		typed:   do(nil, (*call).cancelKeyDeletion),
	},
	{
		service: serviceKMS, name: "ScheduleKeyDeletion", bucket: "ScheduleKeyDeletion",
		targets: []target{manages("ScheduleKeyDeletion", metadata.SchedulingDeletion.From)},
		records: []string{"KeyId", "PendingWindowInDays"},
		typed:   do(completeScheduleKeyDeletion, (*call).scheduleKeyDeletion),
	},
}
