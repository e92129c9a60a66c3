package main

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
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

// leastTimeout leaves a request time for its work and for its record;
// mostGeneration is as long as a client waits for anything.
const (
	leastTimeout   = time.Second
	mostGeneration = 10 * time.Minute
)

// leastKept and mostKept bound how long it is kept why requests were refused.
const (
	leastKept = time.Hour
	mostKept  = 3660 * 24 * time.Hour
)

// servicePattern is what the name of a service can be.
var servicePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// maxKeyIDBytes is as long as a CKA_ID may be that is named in a configuration.
const maxKeyIDBytes = 64

// check refuses what cannot work, naming the key.
func (c *config) check() error {
	if err := first(c.rules()); err != nil {
		return err
	}
	if err := first(c.TLS.rules()); err != nil {
		return err
	}
	if err := c.checkModules(); err != nil {
		return err
	}
	if err := c.checkRegions(); err != nil {
		return err
	}
	if err := c.checkServices(); err != nil {
		return err
	}
	if err := c.checkCredentials(); err != nil {
		return err
	}
	return first(append(c.Quotas.rules(), c.Events.rules()...))
}

// checkListening refuses to serve without TLS where others could listen. The
// commands that make the key and the certificate run before there is TLS.
func (c *config) checkListening() error {
	return first([]rule{{
		c.TLS.Certificate == "" && !isLoopback(c.Listen), "listen",
		fmt.Sprintf("%s is not loopback: set tls.certificate and tls.key, or a key in a token; without TLS only 127.0.0.1 or [::1] is served", c.Listen),
	}})
}

func (c *config) rules() []rule {
	var level slog.Level
	return []rule{
		{c.Listen == "", "listen", "is missing: host:port of the API"},
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
		{
			c.GenerationTimeout != 0 && (c.GenerationTimeout < leastTimeout || c.GenerationTimeout > mostGeneration), "generation_timeout",
			fmt.Sprintf("must be %s to %s", leastTimeout, mostGeneration),
		},
		{
			c.KeepRefusals != 0 && (c.KeepRefusals < leastKept || c.KeepRefusals > mostKept), "keep_refusals",
			fmt.Sprintf("must be %s to %s", leastKept, mostKept),
		},
		{level.UnmarshalText([]byte(c.Log)) != nil, "log", "must be debug, info, warn or error"},
	}
}

func (t *tlsConfig) rules() []rule {
	any := *t != tlsConfig{}
	id, err := hex.DecodeString(t.KeyID)
	return []rule{
		{any && (t.Certificate == "" || (t.Key == "" && t.Token == "")), "tls", "needs both certificate and key, or the token and key_id of a key"},
		{t.Key != "" && (t.Token != "" || t.KeyID != ""), "tls", "has a key and a token: the certificate's key is in one place"},
		{(t.Token == "") != (t.KeyID == ""), "tls", "needs both token and key_id; kmsgate hsm tls-key prints them"},
		{
			err != nil || len(id) > maxKeyIDBytes, "tls.key_id",
			fmt.Sprintf("must be a CKA_ID of at most %d bytes in hexadecimal", maxKeyIDBytes),
		},
	}
}

func (c *config) checkModules() error {
	paths, names := map[string]bool{}, map[string]bool{}
	for i, m := range c.Modules {
		at := fmt.Sprintf("modules[%d]", i)
		err := first([]rule{
			{m.Path == "", at + ".path", "is missing: the PKCS#11 library"},
			{paths[m.Path], at + ".path", "is listed already"},
			{!slices.Contains(isolations, m.Isolation), at + ".isolation", "must be none or process"},
			{len(m.Tokens) == 0, at + ".tokens", "is missing: at least one"},
		})
		if err != nil {
			return err
		}
		if err := pkcs11.CheckReturnCodes(m.ReturnCodes); err != nil {
			return &configError{at + ".return_codes", err.Error()}
		}
		paths[m.Path] = true
		meant := map[string]bool{}
		for j, t := range m.Tokens {
			if err := t.check(fmt.Sprintf("%s.tokens[%d]", at, j), names, meant); err != nil {
				return err
			}
			names[t.Name], meant[t.meaning()] = true, true
		}
	}
	return nil
}

// isolations are the words for where a library runs.
var isolations = []string{"", isolationNone, isolationProcess}

const (
	isolationNone    = "none"
	isolationProcess = "process"
)

// meaning is how the token is told from the others of its library.
func (t *tokenConfig) meaning() string { return "label " + t.Label + ", serial " + t.Serial }

func (t *tokenConfig) check(at string, names, meant map[string]bool) error {
	_, known := ivModes[t.IV]
	return first([]rule{
		{t.Name == "", at + ".name", "is missing: what regions call the token"},
		{names[t.Name], at + ".name", fmt.Sprintf("%q is the name of another token already", t.Name)},
		{(t.Label == "") == (t.Serial == ""), at, "needs either label or serial"},
		{meant[t.meaning()], at, "is a token that has another name already: give each token of a library once, with a label or serial of its own"},
		{t.PINFile == "", at + ".pin_file", "is missing"},
		{t.MaxSessions < 0, at + ".max_sessions", "cannot be negative"},
		{t.CachedKeys < 0, at + ".cached_keys", "cannot be negative"},
		{t.CallTimeout < 0, at + ".call_timeout", "cannot be negative"},
		{!known, at + ".iv", "must be given, written or appended"},
	})
}

// ivModes are the words for who makes IVs.
var ivModes = map[string]pkcs11.IVMode{
	"": pkcs11.IVGiven, "given": pkcs11.IVGiven, "written": pkcs11.IVWritten, "appended": pkcs11.IVAppended,
}

func (c *config) checkRegions() error {
	tokens, names, stores := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, m := range c.Modules {
		for _, t := range m.Tokens {
			tokens[t.Name] = true
		}
	}
	if c.TLS.Token != "" && !tokens[c.TLS.Token] {
		return &configError{"tls.token", fmt.Sprintf("no token has the name %q", c.TLS.Token)}
	}
	for i, r := range c.Regions {
		at := fmt.Sprintf("regions[%d]", i)
		err := first([]rule{
			{!regionPattern.MatchString(r.Name), at + ".name", "must be 1 to 50 of a-z, 0-9 and -, not beginning with -"},
			{names[r.Name], at + ".name", fmt.Sprintf("%q is listed already", r.Name)},
			{!storePattern.MatchString(r.Store), at + ".store", "must be 1 to 64 of a-z, 0-9 and -, not beginning with -"},
			{stores[r.Store], at + ".store", fmt.Sprintf("%q is the store of another region already", r.Store)},
			{r.Token != "" && len(r.Tokens) > 0, at, "has token and tokens: name one token by token, or several by tokens"},
			{len(r.Tokens) == 0 && !tokens[r.Token], at + ".token", fmt.Sprintf("no token has the name %q", r.Token)},
			{r.Residency != "" && r.Residency != hsm.Wrapped && r.Residency != hsm.Resident, at + ".residency", "must be wrapped or resident"},
		})
		if err != nil {
			return err
		}
		for j, name := range r.Tokens {
			err := first([]rule{
				{!tokens[name], fmt.Sprintf("%s.tokens[%d]", at, j), fmt.Sprintf("no token has the name %q", name)},
				{slices.Contains(r.Tokens[:j], name), fmt.Sprintf("%s.tokens[%d]", at, j), fmt.Sprintf("%q is listed already", name)},
			})
			if err != nil {
				return err
			}
		}
		names[r.Name], stores[r.Store] = true, true
	}
	return nil
}

func (c *config) checkServices() error {
	names := map[string]bool{}
	for i, s := range c.Services {
		at := fmt.Sprintf("services[%d]", i)
		err := first([]rule{
			{!servicePattern.MatchString(s.Name), at + ".name", "must be 1 to 64 of a-z, 0-9 and -, not beginning with -"},
			{names[s.Name], at + ".name", fmt.Sprintf("%q is listed already", s.Name)},
			{len(s.Callers) == 0, at + ".callers", "is missing: the ARNs of the users and roles that the service calls with"},
		})
		if err != nil {
			return err
		}
		names[s.Name] = true
		for j, caller := range s.Callers {
			if !isCaller(caller) {
				return &configError{fmt.Sprintf("%s.callers[%d]", at, j), fmt.Sprintf("%q is not the ARN of a user, a role or an account's root", caller)}
			}
		}
	}
	return nil
}

// isCaller tells whether a text is the ARN of something that calls by itself: a
// session calls as its role.
func isCaller(text string) bool {
	parsed, ok := arn.ParseIAM(text)
	return ok && (parsed.Kind == "user" || parsed.Kind == "role" || parsed.Kind == "root")
}
