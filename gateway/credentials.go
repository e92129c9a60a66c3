package gateway

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"kmsgate/gateway/awsjson"
	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
)

// credentialsPath is where containers get credentials by a web identity's token
// alone, as SDKs ask at AWS_CONTAINER_CREDENTIALS_FULL_URI (AWS SDKs and Tools
// Reference Guide, "Container credential provider").
const credentialsPath = "/v1/credentials"

// serviceContainers is how STS answers at credentialsPath.
const serviceContainers service = "containers"

// Association gives a role to a web identity that does not name one. The role's
// trust policy must allow it all the same.
type Association struct {
	Issuer  string // URL
	Subject string
	Role    string // ARN
}

// containersProtocol is JSON, with the request in the Authorization header.
var containersProtocol = protocol{
	contentType: "application/json",
	decode:      func(c *call, in any) *kmsapi.Error { return c.decodeCredentials(in) },
	encode:      func(_ *call, out any) ([]byte, error) { return encodeCredentials(out), nil },
	encodeError: func(_ *call, e *kmsapi.Error) (int, []byte) { return encodeCredentialsError(e) },
	unknown:     func(*call) *kmsapi.Error { return kmsapi.UnknownOperation() },
}

// isForCredentials tells whether a request is one for a container's credentials.
func isForCredentials(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Path == credentialsPath
}

// routeCredentials makes the call one of AssumeRoleWithWebIdentity. The token is its
// body, and cleared with it.
func (c *call) routeCredentials(r *http.Request) error {
	c.speak(serviceSTS)
	if err := c.take(route{serviceSTS, "AssumeRoleWithWebIdentity"}); err != nil {
		return err
	}
	c.service = serviceContainers
	c.body = []byte(r.Header.Get("Authorization"))
	return nil
}

// decodeCredentials makes the request of the token, and of the role that is
// associated with whom the token claims to be of. What it claims is verified after,
// that of one without a role too: nobody learns of roles from a forged token.
func (c *call) decodeCredentials(in any) *kmsapi.Error {
	text := string(c.body)
	token, err := identity.ParseIDToken(text)
	if err != nil {
		return c.wireError(err)
	}
	n := slices.IndexFunc(c.gateway.associations, func(a Association) bool { return token.ClaimsToBe(a.Issuer, a.Subject) })
	if n < 0 {
		c.roleless = true
		n = slices.IndexFunc(c.gateway.associations, func(a Association) bool { return token.ClaimsIssuer(a.Issuer) })
	}
	if n < 0 {
		return identity.NoProvider(token)
	}
	a := &c.gateway.associations[n]
	name := sessionNameOf(a.Subject)
	*in.(*identity.AssumeRoleWithWebIdentityRequest) = identity.AssumeRoleWithWebIdentityRequest{
		RoleArn: &a.Role, RoleSessionName: &name, WebIdentityToken: &text,
	}
	return nil
}

// noAssociation tells a container that it has no role.
func noAssociation() *kmsapi.Error {
	return &kmsapi.Error{Code: kmsapi.AccessDeniedException, Message: "No role is associated with this web identity."}
}

// maxSessionName is how long the name of a session can be.
const maxSessionName = 64

// sessionNameOf is a subject as the name of a session: its end says most.
func sessionNameOf(subject string) string {
	name := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("_+=,.@-", c) {
			return c
		}
		return '-'
	}, subject)
	if len(name) < 2 {
		name += "-session"
	}
	return name[max(0, len(name)-maxSessionName):]
}

// encodeCredentials is the answer. No value has a character that JSON escapes.
func encodeCredentials(out any) []byte {
	assumed := &out.(*identity.AssumeRoleWithWebIdentityResponse).Assumed
	credentials := &assumed.Credentials
	account, _, _ := strings.Cut(strings.TrimPrefix(assumed.AssumedRoleUser.Arn, "arn:aws:sts::"), ":")
	body := make([]byte, 0, 512+len(credentials.SessionToken)) // no second copy to clear
	body = append(append(body, `{"AccessKeyId":"`...), credentials.AccessKeyID...)
	body = append(append(body, `","SecretAccessKey":"`...), credentials.SecretAccessKey...)
	body = append(append(body, `","Token":"`...), credentials.SessionToken...)
	body = append(append(body, `","AccountId":"`...), account...)
	body = append(append(body, `","Expiration":"`...), credentials.Expiration.Format(time.RFC3339)...)
	return append(body, `"}`...)
}

// credentialsError is the body of an error, as SDKs read it.
type credentialsError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func encodeCredentialsError(e *kmsapi.Error) (int, []byte) {
	code, status := awsquery.Spell(e.Code)
	body, err := awsjson.Encode(credentialsError{code, e.Message})
	if err != nil { // texts alone can't fail
		panic("gateway: encode error: " + err.Error())
	}
	return status, body
}
