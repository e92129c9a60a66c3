package audit

import "time"

// Refusals is a number of like refusals that were not recorded one by one:
// requests refused for load, and unauthenticated ones over their rate. There
// is one such record for each caller, operation and second.
type Refusals struct {
	Identity         UserIdentity
	Second           time.Time // the second they fell in
	Source           string
	Operation        string // as asked for; may be unknown
	Region           string
	SourceIP         string
	ErrorCode        string
	Count            int64
	EventID          string
	RecipientAccount string // empty if the caller is unknown
}

// Event is the record of the refusals. It keeps operation, caller and error
// code where a single refusal has them, so that the same searches find it, but
// is a ServiceEvent, without a request id, since it is no single call; the
// number and the second are its additionalEventData.
func (r *Refusals) Event() Event {
	return Event{
		Identity: r.Identity, Time: r.Second, Source: r.Source, Name: r.Operation, Region: r.Region,
		SourceIP: r.SourceIP, ErrorCode: r.ErrorCode, EventID: r.EventID, Type: ServiceEvent,
		RecipientAccount: r.RecipientAccount,
		AdditionalEventData: Members{
			Int("count", r.Count),
			String("second", r.Second.UTC().Format(eventTimeLayout)),
		},
	}
}

// Names of the events that a stream begins and ends with.
const (
	StreamStartedName = "StreamStarted"
	StreamEndedName   = "StreamEnded"
)

// StreamStarted is the first record of a stream: who writes it, and where the
// log stood. Found is the head of the stream before it; its Stream is zero if
// there was none. Left is nil for a new run. For a run that goes on in a new
// stream because the head of its last one was not where it had left it, Left
// is where it had left it.
func StreamStarted(stream StreamID, instance string, found Head, left *Head, at time.Time, eventID string) Event {
	details := Members{String("stream", stream.String()), String("instance", instance)}
	if found.Stream != (StreamID{}) {
		details = append(details, Object("previous", headMembers(found)...))
	}
	if left != nil {
		details = append(details, Object("left", headMembers(*left)...))
	}
	return streamEvent(StreamStartedName, details, at, eventID)
}

// StreamEnded is the last record of a stream that was closed in order.
func StreamEnded(stream StreamID, instance string, at time.Time, eventID string) Event {
	return streamEvent(StreamEndedName,
		Members{String("stream", stream.String()), String("instance", instance)}, at, eventID)
}

func streamEvent(name string, details Members, at time.Time, eventID string) Event {
	return Event{
		Identity: Internal(""), Time: at, Source: eventSourceKMS, Name: name, SourceIP: internalCaller,
		EventID: eventID, Type: ServiceEvent, ServiceEventDetails: details,
	}
}

func headMembers(h Head) Members {
	return Members{
		String("stream", h.Stream.String()),
		Int("number", h.Number), Int("seq", h.Seq), String("hash", h.Hash.String()),
	}
}
