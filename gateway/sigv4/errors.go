package sigv4

// Kind is the family of a refusal. Protocols spell the same kind differently
// (InvalidSignatureException in JSON, SignatureDoesNotMatch in Query).
type Kind uint8

// Kinds of refusals.
const (
	Missing      Kind = iota + 1 // the request is not signed at all
	Incomplete                   // the signature's form is broken
	Invalid                      // well-formed, but does not hold
	Unrecognized                 // the access key or its token is not known
)

// codes are the names of the kinds in the AWS JSON protocols.
var codes = [...]string{
	Missing:      "MissingAuthenticationTokenException",
	Incomplete:   "IncompleteSignatureException",
	Invalid:      "InvalidSignatureException",
	Unrecognized: "UnrecognizedClientException",
}

// Error is a refusal, and the only error type of this package.
type Error struct {
	Kind Kind
	// Code is the error code of the AWS JSON protocols.
	Code string
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

func refuse(k Kind, message string) *Error {
	return &Error{Kind: k, Code: codes[k], Message: message}
}

// NotRecognized is the refusal of an access key that is unknown or inactive,
// and of a session token that does not belong to its access key.
func NotRecognized() *Error {
	return refuse(Unrecognized, "The security token included in the request is invalid.")
}

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
