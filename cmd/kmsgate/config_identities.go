package main

import (
	"crypto/x509"
	"fmt"
	"os"

	"kmsgate/gateway"
	"kmsgate/gateway/arn"
	"kmsgate/gateway/identity"
)

// oidcConfig is how OIDC issuers are asked for their keys.
type oidcConfig struct {
	// CAFile has the authorities, in PEM, that issuers' certificates may be of besides
	// the system's. Optional.
	CAFile string `yaml:"ca_file,omitempty"`
	// Loopback lets issuers on this host do without TLS. For tests and trials only.
	Loopback bool `yaml:"loopback,omitempty"`
}

// credentialConfig gives a role to a web identity that asks for credentials without
// naming one: a subject, or a service account of Kubernetes.
type credentialConfig struct {
	Issuer         string `yaml:"issuer,omitempty"` // URL
	Namespace      string `yaml:"namespace,omitempty"`
	ServiceAccount string `yaml:"service_account,omitempty"`
	Subject        string `yaml:"subject,omitempty"`
	Role           string `yaml:"role,omitempty"` // ARN
}

// subject is what tokens of the web identity have as sub.
func (c *credentialConfig) subject() string {
	if c.Subject != "" {
		return c.Subject
	}
	return "system:serviceaccount:" + c.Namespace + ":" + c.ServiceAccount
}

func (c *config) checkCredentials() error {
	known := map[[2]string]bool{}
	for i, s := range c.Credentials {
		at := fmt.Sprintf("credentials[%d]", i)
		_, isIssuer := identity.IssuerOf(s.Issuer)
		role, isARN := arn.ParseIAM(s.Role)
		ofKubernetes := s.Namespace != "" && s.ServiceAccount != ""
		err := first([]rule{
			{!isIssuer, at + ".issuer", fmt.Sprintf("%q is not the URL of an issuer, as its tokens have it", s.Issuer)},
			{(s.Subject != "") == ofKubernetes, at, "needs either namespace and service_account, or subject"},
			{s.Subject != "" && s.Namespace+s.ServiceAccount != "", at, "has a subject and a service account: the web identity is one of them"},
			{!isARN || role.Kind != "role", at + ".role", fmt.Sprintf("%q is not the ARN of a role", s.Role)},
			{known[[2]string{s.Issuer, s.subject()}], at, "is of a web identity that is listed already"},
		})
		if err != nil {
			return err
		}
		known[[2]string{s.Issuer, s.subject()}] = true
	}
	return nil
}

// associations are the roles of web identities that do not name one.
func (i *installation) associations() []gateway.Association {
	var associations []gateway.Association
	for _, c := range i.config.Credentials {
		associations = append(associations, gateway.Association{Issuer: c.Issuer, Subject: c.subject(), Role: c.Role})
	}
	return associations
}

// issuerRoots are the authorities that issuers' certificates may be of; nil for the
// system's.
func (i *installation) issuerRoots() (*x509.CertPool, error) {
	return rootsWith("oidc.ca_file", i.config.OIDC.CAFile)
}

// rootsWith are the system's authorities and those of a file, which a key of the
// configuration names; nil for none.
func rootsWith(key, file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("%s: the system's authorities: %w", key, err)
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: there is no certificate in %s", key, file)
	}
	return roots, nil
}
