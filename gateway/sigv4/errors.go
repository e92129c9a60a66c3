package sigv4

// Codes of refusals, in the spelling of the AWS JSON protocols. The Query
// protocol has other names for the same.
const (
	Missing      = "MissingAuthenticationTokenException" // not signed at all
	Incomplete   = "IncompleteSignatureException"        // the signature's form is broken
	Invalid      = "InvalidSignatureException"           // well-formed, but does not hold
	Unrecognized = "UnrecognizedClientException"         // names no access key that there could be
)

// Error is a refusal, and the only error type of this package.
type Error struct {
	Code string // one of the constants above
	// Message is AWS's text for the client. It is printable ASCII of at most
	// a few kilobytes and holds no token and no canonical string.
	Message string
	// Detail says more than AWS tells its clients, for the operator's log. It
	// may be empty, is printable ASCII and holds nothing secret.
	Detail string
}

// Error is for logs; a client is answered with Code and Message.
func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Code + ": " + e.Message
	}
	return e.Code + ": " + e.Message + " (" + e.Detail + ")"
}

func refuse(code, message string) *Error { return &Error{Code: code, Message: message} }

// mismatch is the refusal of a signature that is not the one we calculate.
func mismatch(detail string) *Error {
	e := refuse(Invalid, "The request signature we calculated does not match the signature you provided. "+
		"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	e.Detail = detail
	return e
}

// Longest echoes of what the client sent, in bytes.
const (
	maxEcho       = 256
	maxHeaderEcho = 1024
)

// echo makes what a client sent fit for a message: at most limit bytes, of
// printable ASCII.
func echo(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	if cut {
		b = append(b, "..."...)
	}
	return string(b)
}
