package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
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
	// Log is the lowest level logged: debug, info, warn, error. Optional: info.
	Log string `yaml:"log,omitempty"`
}

type tlsConfig struct {
	Certificate string `yaml:"certificate,omitempty"` // PEM file, the leaf first
	Key         string `yaml:"key,omitempty"`         // PEM file
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
	// Environment is set before the library is loaded. Optional.
	Environment map[string]string `yaml:"environment,omitempty"`
	Tokens      []tokenConfig     `yaml:"tokens,omitempty"`
}

// tokenConfig is a token, found by label or serial, never by slot number.
type tokenConfig struct {
	Name        string        `yaml:"name,omitempty"` // what regions call it
	Label       string        `yaml:"label,omitempty"`
	Serial      string        `yaml:"serial,omitempty"`
	PINFile     string        `yaml:"pin_file,omitempty"`
	MaxSessions int           `yaml:"max_sessions,omitempty"` // Optional: what the token allows
	CachedKeys  int           `yaml:"cached_keys,omitempty"`  // Optional: 2000
	CallTimeout time.Duration `yaml:"call_timeout,omitempty"` // Optional: 5s
}

// regionConfig is a region label and its default key store.
type regionConfig struct {
	Name  string `yaml:"name,omitempty"`
	Store string `yaml:"store,omitempty"` // key store id
	Token string `yaml:"token,omitempty"` // a token's name
}

// maxConfigBytes bounds a configuration file.
const maxConfigBytes = 1 << 20

// readConfig reads a configuration file. Errors name the file, and the key and
// line that are wrong.
func readConfig(path string) (*config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigBytes))
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	c, err := parseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

func parseConfig(text []byte) (*config, error) {
	var c config
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return nil, explainYAML(err)
	}
	if err := decoder.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one document in the file")
	}
	c.setDefaults()
	return &c, c.check()
}

// unknownKey is how the YAML library says that a key is unknown.
var unknownKey = regexp.MustCompile(`line (\d+): field (\S+) not found in type \S+`)

// explainYAML says what is wrong in the words of the file, not of our types.
func explainYAML(err error) error {
	text := unknownKey.ReplaceAllString(err.Error(), `line $1: unknown key "$2"`)
	text = strings.TrimPrefix(strings.TrimPrefix(text, "yaml: "), "unmarshal errors:\n  ")
	return errors.New(strings.ReplaceAll(text, "\n  ", "; "))
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

// check refuses what cannot work, naming the key.
func (c *config) check() error {
	switch {
	case c.Listen == "":
		return errors.New("listen is missing: host:port of the API")
	case c.Instance == "":
		return errors.New("instance is missing, and the host has no name")
	case c.Database.URL == "":
		return errors.New("database.url is missing")
	case len(c.Modules) == 0:
		return errors.New("modules is missing: at least one PKCS#11 library")
	case len(c.Regions) == 0:
		return errors.New("regions is missing: at least one")
	case (c.TLS.Certificate == "") != (c.TLS.Key == ""):
		return errors.New("tls needs both certificate and key")
	case c.TLS.Certificate == "" && !isLoopback(c.Listen):
		return fmt.Errorf("listen is %s, which is not loopback: set tls.certificate and tls.key; without TLS only 127.0.0.1 or [::1] is served", c.Listen)
	case c.AdminListen != "" && !isLoopback(c.AdminListen):
		return fmt.Errorf("admin_listen is %s: metrics and pprof are served on loopback only", c.AdminListen)
	case c.MaxInFlight < 0, c.RequestTimeout < 0, c.Database.MaxConnections < 0:
		return errors.New("max_in_flight, request_timeout and database.max_connections cannot be negative")
	}
	names, err := c.tokenNames()
	if err != nil {
		return err
	}
	for i, r := range c.Regions {
		switch {
		case r.Name == "", r.Store == "", r.Token == "":
			return fmt.Errorf("regions[%d] needs name, store and token", i)
		case !names[r.Token]:
			return fmt.Errorf("regions[%d].token is %q: no token has that name", i, r.Token)
		}
	}
	return nil
}

func (c *config) tokenNames() (map[string]bool, error) {
	names := map[string]bool{}
	for i, m := range c.Modules {
		if m.Path == "" {
			return nil, fmt.Errorf("modules[%d].path is missing: the PKCS#11 library", i)
		}
		for j, t := range m.Tokens {
			at := fmt.Sprintf("modules[%d].tokens[%d]", i, j)
			switch {
			case t.Name == "" || names[t.Name]:
				return nil, fmt.Errorf("%s.name is missing or not unique", at)
			case (t.Label == "") == (t.Serial == ""):
				return nil, fmt.Errorf("%s needs either label or serial", at)
			case t.PINFile == "":
				return nil, fmt.Errorf("%s.pin_file is missing", at)
			}
			names[t.Name] = true
		}
	}
	return names, nil
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
