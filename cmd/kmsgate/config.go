package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"go.yaml.in/yaml/v3"

	"kmsgate/hsm"
)

// config is the configuration file of serve and of the commands that share it.
// deployments/kmsgate.yaml documents every key.
type config struct {
	// Listen is the address of the API, host:port.
	Listen string `yaml:"listen,omitempty"`
	// AdminListen is the loopback address of metrics and pprof. Optional.
	AdminListen string `yaml:"admin_listen,omitempty"`
	// TLS is required unless Listen is on loopback.
	TLS tlsConfig `yaml:"tls,omitempty"`
	// Instance names this process in the audit log. Optional: the host's name.
	Instance string         `yaml:"instance,omitempty"`
	Database databaseConfig `yaml:"database,omitempty"`
	Modules  []moduleConfig `yaml:"modules,omitempty"`
	Regions  []regionConfig `yaml:"regions,omitempty"`
	// Throttling holds callers to AWS's request rates. Optional: true.
	Throttling *bool `yaml:"throttling,omitempty"`
	// MaxInFlight bounds the requests worked on at once. Optional: 512.
	MaxInFlight int `yaml:"max_in_flight,omitempty"`
	// RequestTimeout bounds the work on one request. Optional: 10s.
	RequestTimeout time.Duration `yaml:"request_timeout,omitempty"`
	// GenerationTimeout bounds requests that make key pairs, which takes long in
	// software. Optional: 60s.
	GenerationTimeout time.Duration `yaml:"generation_timeout,omitempty"`
	// KeepRefusals is how long it is kept why requests were refused. Optional: 720h.
	KeepRefusals time.Duration `yaml:"keep_refusals,omitempty"`
	// Services have keys of their own, as AWS's services have. Optional.
	Services []serviceConfig `yaml:"services,omitempty"`
	OIDC     oidcConfig      `yaml:"oidc,omitempty"`
	// Credentials are the roles of containers that ask for credentials without naming
	// one. Optional.
	Credentials []credentialConfig `yaml:"credentials,omitempty"`
	// Quotas are how much an account can have. Optional: AWS's.
	Quotas quotaConfig `yaml:"quotas,omitempty"`
	// Events are posted to a webhook of the site. Optional.
	Events eventsConfig `yaml:"events,omitempty"`
	// Log is the lowest level logged: debug, info, warn, error. Optional: info.
	Log string `yaml:"log,omitempty"`
}

// tlsConfig is a certificate and its key: a file, or a key pair in a token.
type tlsConfig struct {
	Certificate string `yaml:"certificate,omitempty"` // PEM file, the leaf first
	Key         string `yaml:"key,omitempty"`         // PEM file
	Token       string `yaml:"token,omitempty"`       // a token's name
	KeyID       string `yaml:"key_id,omitempty"`      // CKA_ID in that token, in hexadecimal
}

type databaseConfig struct {
	URL            string `yaml:"url,omitempty"`
	MaxConnections int32  `yaml:"max_connections,omitempty"` // Optional: 16
	// AllowUnsafeDurability accepts a server that can lose what it
	// acknowledged. For tests only.
	AllowUnsafeDurability bool `yaml:"allow_unsafe_durability,omitempty"`
}

// moduleConfig is a PKCS#11 library and the tokens used of it.
type moduleConfig struct {
	Path string `yaml:"path,omitempty"`
	// InitArguments is handed to C_Initialize as the reserved string. Optional.
	InitArguments string `yaml:"init_arguments,omitempty"`
	// ReturnCodes gives the vendor's own return codes a class, by name. Optional:
	// what the README of hsm lists.
	ReturnCodes map[uint]string `yaml:"return_codes,omitempty"`
	// Environment is set before the library is loaded. Optional.
	Environment map[string]string `yaml:"environment,omitempty"`
	// Isolation is where the library runs: none, in this process, or process, in one
	// of its own. Optional: none.
	Isolation string        `yaml:"isolation,omitempty"`
	Tokens    []tokenConfig `yaml:"tokens,omitempty"`
}

// tokenConfig is a token, found by label or serial, never by slot number.
type tokenConfig struct {
	Name        string        `yaml:"name,omitempty"` // what regions call it
	Label       string        `yaml:"label,omitempty"`
	Serial      string        `yaml:"serial,omitempty"`
	PINFile     string        `yaml:"pin_file,omitempty"`
	MaxSessions int           `yaml:"max_sessions,omitempty"` // Optional: what the token allows
	CachedKeys  int           `yaml:"cached_keys,omitempty"`  // Optional: 1000
	CallTimeout time.Duration `yaml:"call_timeout,omitempty"` // Optional: 5s
	// Strict refuses algorithms of which a part would be done outside the token.
	// Optional: false.
	Strict bool `yaml:"strict,omitempty"`
	// IV says who makes the IVs of AES-GCM: given, written or appended. Optional:
	// given.
	IV string `yaml:"iv,omitempty"`
	// WrapMechanisms are tried in this order for new domain keys. Optional: what
	// the README of hsm lists.
	WrapMechanisms []uint `yaml:"wrap_mechanisms,omitempty"`
}

// regionConfig is a region label and its default key store.
type regionConfig struct {
	Name  string `yaml:"name,omitempty"`
	Store string `yaml:"store,omitempty"` // key store id
	Token string `yaml:"token,omitempty"` // a token's name
	// Tokens are several that have the same service keys, in place of Token.
	Tokens []string `yaml:"tokens,omitempty"`
	// Residency is where the store's new keys live: wrapped, as far as the token
	// can wrap them, or resident. Optional: wrapped.
	Residency hsm.Residency `yaml:"residency,omitempty"`
}

// serviceConfig is a service of the site that has keys of its own.
type serviceConfig struct {
	Name    string   `yaml:"name,omitempty"`    // after alias/aws/
	Callers []string `yaml:"callers,omitempty"` // ARNs of the users and roles that it calls with
}

// maxConfigBytes bounds a configuration file.
const maxConfigBytes = 1 << 20

// readConfig reads a configuration file; more are checks beyond those that every
// command wants. Errors name the file, and the key and line that are wrong.
func readConfig(path string, more ...func(*config) error) (*config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	if len(text) > maxConfigBytes {
		return nil, fmt.Errorf("configuration %s is larger than %d bytes", path, maxConfigBytes)
	}
	c, err := parseConfig(text, more...)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

func parseConfig(text []byte, more ...func(*config) error) (*config, error) {
	var c config
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return nil, explainYAML(err, text)
	}
	if err := decoder.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one document in the file")
	}
	c.setDefaults()
	for _, check := range append([]func(*config) error{(*config).check}, more...) {
		if err := check(&c); err != nil {
			return nil, atLine(err, text)
		}
	}
	return &c, nil
}

func (c *config) setDefaults() {
	if c.Instance == "" {
		c.Instance, _ = os.Hostname() // empty is refused by check
	}
	if c.Throttling == nil {
		on := true
		c.Throttling = &on
	}
	if c.Log == "" {
		c.Log = "info"
	}
}

// isLoopback tells whether an address to listen on is reachable from this host only.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
