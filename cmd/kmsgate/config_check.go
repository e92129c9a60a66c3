package main

import (
	"fmt"
	"log/slog"
	"regexp"
	"time"
)

// configError is a key of the configuration with a value that cannot work.
type configError struct {
	key     string // by its path, like modules[0].path
	problem string
}

func (e *configError) Error() string { return e.key + ": " + e.problem }

// rule is something that must not be so of a key.
type rule struct {
	broken  bool
	key     string
	problem string
}

// first is the first rule that is broken.
func first(rules []rule) error {
	for _, r := range rules {
		if r.broken {
			return &configError{r.key, r.problem}
		}
	}
	return nil
}

// storePattern is what the database takes for the id of a key store.
var storePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// leastConnections is what the gateway's own work needs.
const leastConnections = 4

// leastTimeout leaves a request time for its work and for its record.
const leastTimeout = time.Second

// check refuses what cannot work, naming the key.
func (c *config) check() error {
	if err := first(c.rules()); err != nil {
		return err
	}
	if err := c.checkModules(); err != nil {
		return err
	}
	return c.checkRegions()
}

func (c *config) rules() []rule {
	certificate, key := c.TLS.Certificate, c.TLS.Key
	var level slog.Level
	return []rule{
		{c.Listen == "", "listen", "is missing: host:port of the API"},
		{(certificate == "") != (key == ""), "tls", "needs both certificate and key"},
		{
			certificate == "" && !isLoopback(c.Listen), "listen",
			fmt.Sprintf("%s is not loopback: set tls.certificate and tls.key; without TLS only 127.0.0.1 or [::1] is served", c.Listen),
		},
		{
			c.AdminListen != "" && !isLoopback(c.AdminListen), "admin_listen",
			fmt.Sprintf("%s is not loopback: metrics and pprof are served on loopback only", c.AdminListen),
		},
		{c.Instance == "", "instance", "is missing, and the host has no name"},
		{c.Database.URL == "", "database.url", "is missing"},
		{
			c.Database.MaxConnections != 0 && c.Database.MaxConnections < leastConnections, "database.max_connections",
			fmt.Sprintf("must be at least %d", leastConnections),
		},
		{len(c.Modules) == 0, "modules", "is missing: at least one PKCS#11 library"},
		{len(c.Regions) == 0, "regions", "is missing: at least one"},
		{c.MaxInFlight < 0, "max_in_flight", "cannot be negative"},
		{
			c.RequestTimeout != 0 && (c.RequestTimeout < leastTimeout || c.RequestTimeout > drainTimeout), "request_timeout",
			fmt.Sprintf("must be %s to %s", leastTimeout, drainTimeout),
		},
		{level.UnmarshalText([]byte(c.Log)) != nil, "log", "must be debug, info, warn or error"},
	}
}

func (c *config) checkModules() error {
	paths, names := map[string]bool{}, map[string]bool{}
	for i, m := range c.Modules {
		at := fmt.Sprintf("modules[%d]", i)
		err := first([]rule{
			{m.Path == "", at + ".path", "is missing: the PKCS#11 library"},
			{paths[m.Path], at + ".path", "is listed already"},
			{len(m.Tokens) == 0, at + ".tokens", "is missing: at least one"},
			{len(m.Tokens) > 1, at + ".tokens", "has several tokens; one token of a library is served"},
		})
		if err != nil {
			return err
		}
		paths[m.Path] = true
		for j, t := range m.Tokens {
			if err := t.check(fmt.Sprintf("%s.tokens[%d]", at, j), names); err != nil {
				return err
			}
			names[t.Name] = true
		}
	}
	return nil
}

func (t *tokenConfig) check(at string, names map[string]bool) error {
	return first([]rule{
		{t.Name == "", at + ".name", "is missing: what regions call the token"},
		{names[t.Name], at + ".name", fmt.Sprintf("%q is the name of another token already", t.Name)},
		{(t.Label == "") == (t.Serial == ""), at, "needs either label or serial"},
		{t.PINFile == "", at + ".pin_file", "is missing"},
		{t.MaxSessions < 0, at + ".max_sessions", "cannot be negative"},
		{t.CachedKeys < 0, at + ".cached_keys", "cannot be negative"},
		{t.CallTimeout < 0, at + ".call_timeout", "cannot be negative"},
	})
}

func (c *config) checkRegions() error {
	tokens, names, stores := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, m := range c.Modules {
		for _, t := range m.Tokens {
			tokens[t.Name] = true
		}
	}
	for i, r := range c.Regions {
		at := fmt.Sprintf("regions[%d]", i)
		err := first([]rule{
			{!regionPattern.MatchString(r.Name), at + ".name", "must be 1 to 50 of a-z, 0-9 and -, not beginning with -"},
			{names[r.Name], at + ".name", fmt.Sprintf("%q is listed already", r.Name)},
			{!storePattern.MatchString(r.Store), at + ".store", "must be 1 to 64 of a-z, 0-9 and -, not beginning with -"},
			{stores[r.Store], at + ".store", fmt.Sprintf("%q is the store of another region already", r.Store)},
			{!tokens[r.Token], at + ".token", fmt.Sprintf("no token has the name %q", r.Token)},
		})
		if err != nil {
			return err
		}
		names[r.Name], stores[r.Store] = true, true
	}
	return nil
}
