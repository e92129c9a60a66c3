package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ThalesGroup/crypto11"

	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata/audit"
)

// hsmCommands are the subcommands of hsm.
var hsmCommands = []command{
	{"probe", "find out what a token can do by doing it, and run the conformance suite", runHSMProbe},
	{"inspect", "list a token's objects with their attributes, and what is wrong with them", runHSMInspect},
	{"tls-key", "make the key of the API's TLS certificate in a token, and its request", runHSMTLSKey},
	{"create-service-keys", "make the same service keys in all tokens of a key store", runHSMCeremony},
	{"rotate-domain-key", "make a new generation of a key store's domain key, and move all keys to it", runHSMRotateDomainKey},
	{"destroy-domain-key", "destroy an old generation of the domain key, and with it what old backups hold", runHSMDestroyDomainKey},
	{"login", "try the PIN of every configured token once, and clear the marks of refused PINs", runHSMLogin},
}

func runHSM(ctx context.Context, p *program, args []string) error {
	if len(args) == 2 && args[0] == workerCommand {
		return p.runWorker(args[1])
	}
	return p.subcommand(ctx, "hsm", hsmCommands, args)
}

const hsmLoginUsage = `A PIN that a token refused is not tried again, not after a restart either, so
that restarts cannot lock the partition. After correcting the PIN file, run this:
it tries each token's PIN exactly once and, where it works, clears the mark; the
audit log has it.`

func runHSMLogin(ctx context.Context, p *program, args []string) error {
	set := p.flags("hsm login -config FILE [-token NAME]", hsmLoginUsage)
	path := set.String("config", "", "configuration `file` (required)")
	only := set.String("token", "", "`name` of the one token to try; all of them without it")
	if err := p.parse(set, args); err != nil {
		return err
	}
	return p.withDatabase(ctx, *path, func(i *installation) error {
		tokens, err := i.config.tokensNamed(*only)
		if err != nil {
			return err
		}
		for _, t := range tokens {
			serial, err := i.loginByOrder(ctx, t.module, t.tokenConfig)
			if err != nil {
				return fmt.Errorf("token %s: %w", t.Name, err)
			}
			fmt.Fprintf(p.stdout, "Token %s (serial %s): the PIN works.\n", t.Name, serial)
		}
		return nil
	})
}

// configuredToken is a token and the module that it is reached through.
type configuredToken struct {
	tokenConfig
	module moduleConfig
}

// tokensNamed are the configured tokens of a name, or all of them without one.
func (c *config) tokensNamed(name string) ([]configuredToken, error) {
	var tokens []configuredToken
	for _, m := range c.Modules {
		for _, t := range m.Tokens {
			if name == "" || t.Name == name {
				tokens = append(tokens, configuredToken{t, m})
			}
		}
	}
	if len(tokens) == 0 {
		return nil, errors.New("no token of that name is configured")
	}
	return tokens, nil
}

// loginByOrder tries a token's PIN once, records that and how it went, and
// clears the token's marks if it worked.
func (i *installation) loginByOrder(ctx context.Context, m moduleConfig, t tokenConfig) (serial string, err error) {
	if err := m.setEnvironment(); err != nil {
		return "", err
	}
	c := engineConfigOf(m, t)
	c.Marks = i.store
	serial, err = pkcs11.LoginOnce(ctx, c)
	if err == nil {
		err = i.store.ClearLoginMark(ctx, serial)
	}
	return serial, errors.Join(err, i.recordLogin(ctx, "hsm login", t.Name, serial, err))
}

// recordLogin records that a PIN was tried or was not to be tried.
func (i *installation) recordLogin(ctx context.Context, command, token, serial string, err error) error {
	return i.record(ctx, adminEvent(command, "Login", "", "", time.Now(), audit.Members{
		audit.String("token", token), audit.String("serialNumber", serial), audit.Bool("successful", err == nil),
	}))
}

// Limits of crypto11: the session that holds the login and a few for work, and how
// long to wait for one of these.
const (
	crypto11Sessions = 4
	crypto11Wait     = 2 * time.Second
)

// withCrypto11 logs in to a token through crypto11, by the rule of the engine, and
// records that. It is for commands in a process of their own: crypto11 initialises
// the module, wants the PIN as a string, which nobody can clear, and when it is
// closed finalises the module under everybody.
func (i *installation) withCrypto11(ctx context.Context, command string, t configuredToken, do func(c *crypto11.Context, serial string) error) error {
	if t.module.InitArguments != "" {
		return errors.New("the module has init_arguments, and crypto11 cannot hand them to C_Initialize: use what the library takes from its environment or a file of its own")
	}
	if err := t.module.setEnvironment(); err != nil {
		return err
	}
	engine := engineConfigOf(t.module, t.tokenConfig)
	engine.Marks = i.store
	var token *crypto11.Context
	serial, err := pkcs11.LoginBy(ctx, engine, func(pin []byte) (err error) {
		token, err = crypto11.Configure(&crypto11.Config{
			Path: t.module.Path, TokenLabel: t.Label, TokenSerial: t.Serial, Pin: string(pin),
			MaxSessions: crypto11Sessions, PoolWaitTimeout: crypto11Wait,
		})
		return err
	})
	err = errors.Join(err, i.recordLogin(ctx, command, t.Name, serial, err))
	if err == nil {
		err = do(token, serial)
	}
	if token != nil {
		err = errors.Join(err, token.Close())
	}
	if err != nil {
		return fmt.Errorf("token %s: %w%s", t.Name, err, advice(err))
	}
	return nil
}

// setEnvironment sets what the library finds in its environment.
func (m *moduleConfig) setEnvironment() error {
	for name, value := range m.Environment {
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("environment of %s: %w", m.Path, err)
		}
	}
	return nil
}
