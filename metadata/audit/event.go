package audit

import (
	"strconv"
	"time"
)

// Version is the CloudTrail record version that events are written in: the
// newest one that older readers accept.
const Version = "1.08"

// Limits of what an event keeps of a caller's text, in bytes. Longer text is
// cut at a character; longer requestParameters are replaced by a note. With
// them no event is longer than [MaxRecordBytes].
const (
	maxUserAgentBytes    = 1 << 10
	maxMessageBytes      = 1 << 10
	maxIdentifierBytes   = 256
	maxARNBytes          = 1 << 10
	maxMembersBytes      = 100 << 10
	maxResources         = 16
	eventTimeLayout      = "2006-01-02T15:04:05Z"
	managementCategory   = "Management"
	internalCaller       = "AWS Internal"
	keyResourceType      = "AWS::KMS::Key"
	eventSourceKMS       = "kms.amazonaws.com"
	membersOmittedMember = "contentOmittedBytes"
)

// EventType says who caused an event.
type EventType string

// Event types of CloudTrail.
const (
	APICall      EventType = "AwsApiCall"      // a request of a caller
	ServiceEvent EventType = "AwsServiceEvent" // what the service did by itself
)

// Event is one record of the audit log in the shape of a CloudTrail record
// (AWS CloudTrail User Guide, "CloudTrail record contents"). It has no room for
// secrets: parameters are given member by member, never as a whole request.
type Event struct {
	Identity  UserIdentity
	Time      time.Time // of the request; written in UTC to the second
	Source    string    // "kms.amazonaws.com", "sts.amazonaws.com"
	Name      string    // the operation
	Region    string
	SourceIP  string // IP literal
	UserAgent string // Optional. Cut to 1 KiB.

	// ErrorCode and ErrorMessage are empty for a success. A message is cut to 1 KiB.
	ErrorCode    string
	ErrorMessage string

	RequestParameters   Members // nil is null
	ResponseElements    Members // nil is null, as for reads and cryptographic operations
	AdditionalEventData Members // Optional. Nil is left out.
	ServiceEventDetails Members // Optional. Nil is left out.

	RequestID string // the wire's x-amzn-RequestId; empty for a ServiceEvent
	EventID   string // UUID; readers take it for the record's primary key
	ReadOnly  bool
	Resources []Resource // Optional. At most 16 are written.
	Type      EventType

	// RecipientAccount is the account whose log this record is in. A call on
	// another account's key is recorded once for each account, under one
	// SharedEventID; uses are counted in the record of the key's owner only.
	RecipientAccount string
	SharedEventID    string // Optional.

	TLS TLSDetails // Optional. The zero value is left out.
}

// Resource is something that a request was about.
type Resource struct {
	Account string
	Type    string // "AWS::KMS::Key", for aliases too
	ARN     string
}

// KeyResource is the resource for a key or an alias.
func KeyResource(account, arn string) Resource {
	return Resource{Account: account, Type: keyResourceType, ARN: arn}
}

// TLSDetails is what is known of the connection that a request came on.
type TLSDetails struct {
	Version     string // "TLSv1.3"
	CipherSuite string // "TLS_AES_128_GCM_SHA256"
	Host        string // the Host header as the client sent it
}

// AppendJSON appends the event as one JSON object without a line break. The
// order of members is always the same.
func (e *Event) AppendJSON(b []byte) []byte {
	b = append(b, `{"eventVersion":"`+Version+`","userIdentity":`...)
	b = e.Identity.appendJSON(b)
	b = append(b, `,"eventTime":"`...)
	b = e.Time.UTC().AppendFormat(b, eventTimeLayout)
	b = append(b, '"')
	b = appendMember(b, "eventSource", e.Source)
	b = appendMember(b, "eventName", cut(e.Name, maxIdentifierBytes))
	b = appendMember(b, "awsRegion", cut(e.Region, maxIdentifierBytes))
	b = appendMember(b, "sourceIPAddress", e.SourceIP)
	b = appendOptional(b, "userAgent", cut(e.UserAgent, maxUserAgentBytes))
	b = appendOptional(b, "errorCode", e.ErrorCode)
	b = appendOptional(b, "errorMessage", cut(e.ErrorMessage, maxMessageBytes))
	b = appendMembers(b, "requestParameters", e.RequestParameters)
	b = appendMembers(b, "responseElements", e.ResponseElements)
	if e.AdditionalEventData != nil {
		b = appendMembers(b, "additionalEventData", e.AdditionalEventData)
	}
	b = appendOptional(b, "requestID", e.RequestID)
	b = appendMember(b, "eventID", e.EventID)
	b = append(b, `,"readOnly":`...)
	b = strconv.AppendBool(b, e.ReadOnly)
	b = appendResources(b, e.Resources)
	b = appendMember(b, "eventType", string(e.Type))
	b = append(b, `,"managementEvent":true`...)
	b = appendOptional(b, "recipientAccountId", e.RecipientAccount)
	b = appendOptional(b, "sharedEventID", e.SharedEventID)
	if e.ServiceEventDetails != nil {
		b = appendMembers(b, "serviceEventDetails", e.ServiceEventDetails)
	}
	b = append(b, `,"eventCategory":"`+managementCategory+`"`...)
	b = e.TLS.appendJSON(b)
	return append(b, '}')
}

// appendMember appends a member that is not the first of its object. Names are
// ours and need no escapes.
func appendMember(b []byte, name, value string) []byte {
	return appendString(appendName(b, name), value)
}

func appendOptional(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendMember(b, name, value)
}

func appendName(b []byte, name string) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	return append(b, `":`...)
}

// appendMembers appends an object, or a note of its size if it is too long
// (CloudTrail keeps at most 100 KB of requestParameters).
func appendMembers(b []byte, name string, ms Members) []byte {
	b = appendName(b, name)
	start := len(b)
	b = ms.appendJSON(b)
	if size := len(b) - start; size > maxMembersBytes {
		return Members{Int(membersOmittedMember, int64(size))}.appendJSON(b[:start])
	}
	return b
}

func appendResources(b []byte, resources []Resource) []byte {
	if len(resources) == 0 {
		return b
	}
	b = append(b, `,"resources":[`...)
	for i, r := range resources[:min(len(resources), maxResources)] {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"accountId":`...)
		b = appendString(b, r.Account)
		b = appendMember(b, "type", r.Type)
		b = appendMember(b, "ARN", cut(r.ARN, maxARNBytes))
		b = append(b, '}')
	}
	return append(b, ']')
}

func (t *TLSDetails) appendJSON(b []byte) []byte {
	if *t == (TLSDetails{}) {
		return b
	}
	b = append(b, `,"tlsDetails":{"tlsVersion":`...)
	b = appendString(b, t.Version)
	b = appendMember(b, "cipherSuite", t.CipherSuite)
	b = appendOptional(b, "clientProvidedHostHeader", cut(t.Host, maxIdentifierBytes))
	return append(b, '}')
}
