package main

import (
	"fmt"
	"os"
	"time"

	"kmsgate/gateway"
	"kmsgate/gateway/reconcile"
)

// quotaConfig is how much an account can have. Zero is AWS's default.
type quotaConfig struct {
	KeysPerAccount int `yaml:"keys_per_account,omitempty"` // of customers in a region. Optional: 100,000
	AliasesPerKey  int `yaml:"aliases_per_key,omitempty"`  // Optional: 50
	GrantsPerKey   int `yaml:"grants_per_key,omitempty"`   // Optional: 50,000
}

func (q *quotaConfig) rules() []rule {
	const negative = "cannot be negative"
	return []rule{
		{q.KeysPerAccount < 0, "quotas.keys_per_account", negative},
		{q.AliasesPerKey < 0, "quotas.aliases_per_key", negative},
		{q.GrantsPerKey < 0, "quotas.grants_per_key", negative},
	}
}

func (q *quotaConfig) quotas() gateway.Quotas {
	return gateway.Quotas{Keys: q.KeysPerAccount, Aliases: q.AliasesPerKey, Grants: q.GrantsPerKey}
}

// eventsConfig is the webhook that events are posted to.
type eventsConfig struct {
	URL        string        `yaml:"url,omitempty"`         // https; http on loopback only
	SecretFile string        `yaml:"secret_file,omitempty"` // with the secret that signs
	Timeout    time.Duration `yaml:"timeout,omitempty"`     // of one post. Optional: 10s
	// CAFile has the authorities, in PEM, that the receiver's certificate may be of
	// besides the system's. Optional.
	CAFile string `yaml:"ca_file,omitempty"`
}

// mostTimeout is as long as the receiver of an event may take.
const mostTimeout = time.Minute

func (e *eventsConfig) rules() []rule {
	if *e == (eventsConfig{}) {
		return nil
	}
	problem := ""
	if err := reconcile.CheckWebhookURL(e.URL); err != nil {
		problem = err.Error()
	}
	return []rule{
		{problem != "", "events.url", problem},
		{e.SecretFile == "", "events.secret_file", "is missing: the file with the secret that signs"},
		{
			e.Timeout != 0 && (e.Timeout < leastTimeout || e.Timeout > mostTimeout), "events.timeout",
			fmt.Sprintf("must be %s to %s", leastTimeout, mostTimeout),
		},
	}
}

// webhook is where events are posted; nil for nowhere.
func (i *installation) webhook() (*reconcile.Webhook, error) {
	c := i.config.Events
	if c.URL == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("events.secret_file: %w", err)
	}
	secret, err := reconcile.ParseSecret(string(text))
	if err != nil {
		return nil, fmt.Errorf("events.secret_file: %w", err)
	}
	roots, err := rootsWith("events.ca_file", c.CAFile)
	if err != nil {
		return nil, err
	}
	w, err := reconcile.NewWebhook(reconcile.WebhookConfig{URL: c.URL, Secret: secret, Timeout: c.Timeout, Roots: roots})
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	return w, nil
}
