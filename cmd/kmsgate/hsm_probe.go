package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"kmsgate/hsm/keyspec"
	"kmsgate/hsm/pkcs11"
)

const hsmProbeUsage = `Finds out what a token can do by doing it, and prints it: where keys of each spec
would live, how each algorithm is done, which promises the token keeps. Run it on a
new HSM before anything else: with -module it needs neither a configuration nor a
database. It uses objects of its own and leaves none.

-exercise runs the conformance suite besides, on keys of two throw-away key stores
that are destroyed at the end, also after Ctrl-C. What the token has no mechanism
for is printed as lacking. The exit code is 1 if the token cannot serve symmetric
keys, or if a part of the suite fails.

-accept notes, if all that went well, that the token is to be served as it is now:
serve does not start on one whose firmware, library or mechanisms have changed since
it was last accepted. The audit log has it.`

// probeOptions are the flags of hsm probe.
type probeOptions struct {
	config, token string
	strict        bool
	json          bool
	exercise      bool
	accept        bool
	specs         string
	exercised     []keyspec.Spec // those of specs; nil: all
	sessions      int
	engine        pkcs11.Config
	pinFile       string
}

func runHSMProbe(ctx context.Context, p *program, args []string) error {
	set := p.flags("hsm probe (-config FILE [-token NAME] | -module PATH (-label L | -serial S) -pin-file F [-init-arguments S]) [-strict] [-json] [-sessions N] [-exercise [-specs S,S]] [-accept]", hsmProbeUsage)
	var o probeOptions
	set.StringVar(&o.config, "config", "", "configuration `file`")
	set.StringVar(&o.token, "token", "", "`name` of the one configured token; it may be left out if there is one")
	set.StringVar(&o.engine.Module, "module", "", "`path` of the PKCS#11 library, instead of -config")
	set.StringVar(&o.engine.InitArguments, "init-arguments", "", "`string` handed to C_Initialize, for the libraries that want it")
	set.StringVar(&o.engine.Label, "label", "", "the token's `label`")
	set.StringVar(&o.engine.Serial, "serial", "", "the token's serial `number`")
	set.StringVar(&o.pinFile, "pin-file", "", "`file` with the PIN alone")
	set.BoolVar(&o.strict, "strict", false, "say what a strict configuration would refuse")
	set.BoolVar(&o.json, "json", false, "print the profile as JSON")
	set.IntVar(&o.sessions, "sessions", 256, "how many sessions to open at once, at most")
	set.BoolVar(&o.exercise, "exercise", false, "run the conformance suite")
	set.BoolVar(&o.accept, "accept", false, "serve on the token as it is now, although it has changed")
	set.StringVar(&o.specs, "specs", "", "exercise these key `specs` alone, such as RSA_2048,HMAC_256")
	if err := p.parse(set, args); err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	if o.config == "" {
		o.engine.PIN = pkcs11.PINFile(o.pinFile)
		return p.probeToken(ctx, o, func(*pkcs11.Engine) error { return nil })
	}
	return p.probeConfigured(ctx, o)
}

// probeConfigured probes the one token of a configuration that is meant.
func (p *program) probeConfigured(ctx context.Context, o probeOptions) error {
	return p.withDatabase(ctx, o.config, func(i *installation) error {
		tokens, err := i.config.tokensNamed(o.token)
		if err != nil {
			return err
		}
		if len(tokens) > 1 {
			return usagef("-token: several tokens are configured; name the one to look at")
		}
		if err := tokens[0].module.setEnvironment(); err != nil {
			return err
		}
		o.engine = engineConfigOf(tokens[0].module, tokens[0].tokenConfig)
		o.engine.Marks = i.store
		return p.probeToken(ctx, o, func(engine *pkcs11.Engine) error { return p.acceptProbed(ctx, o, i, engine) })
	})
}

// readSpecs takes the list of key specs apart.
func (o *probeOptions) readSpecs() error {
	if o.specs == "" {
		return nil
	}
	for name := range strings.SplitSeq(o.specs, ",") {
		spec := keyspec.Spec(strings.TrimSpace(name))
		if _, ok := keyspec.Lookup(spec); !ok || spec == keyspec.SM2 {
			return usagef("-specs: there is no key spec %q to exercise", spec)
		}
		o.exercised = append(o.exercised, spec)
	}
	return nil
}

func (o *probeOptions) check() error {
	named := o.engine.Label != "" || o.engine.Serial != ""
	switch {
	case o.config != "" && (o.engine.Module != "" || named || o.pinFile != "" || o.engine.InitArguments != ""):
		return usagef("-config: the configuration names module, token and PIN file; leave the flags for them out")
	case o.config == "" && o.engine.Module == "":
		return usagef("-config or -module is missing: the configuration file, or the path of the PKCS#11 library")
	case o.config == "" && (!named || o.pinFile == ""):
		return usagef("-module: give -label or -serial of the token, and -pin-file, too")
	case o.sessions < 1:
		return usagef("-sessions: at least 1")
	case o.exercise && o.json:
		return usagef("-exercise and -json do not go together")
	case o.accept && o.config == "":
		return usagef("-accept goes with -config: it is the database that remembers")
	case o.specs != "" && !o.exercise:
		return usagef("-specs goes with -exercise")
	}
	return o.readSpecs()
}

// probeToken prints the profile of a token and has it exercised. good is told of a
// token that is fit to serve.
func (p *program) probeToken(ctx context.Context, o probeOptions, good func(*pkcs11.Engine) error) (err error) {
	o.engine.Logger = slog.New(slog.DiscardHandler)
	if o.exercise {
		o.engine.MaxHandles, o.engine.OwnerSessions = exerciseHandles, 2
	}
	engine, err := pkcs11.Open(ctx, o.engine)
	if err != nil {
		return errors.Join(fmt.Errorf("the token cannot serve: %w%s", err, advice(err)), p.describe(o))
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	fmt.Fprintln(p.stderr, "probe: looking at the token")
	profile, err := engine.Probe(ctx, o.sessions)
	if err != nil {
		return err
	}
	if err := p.printProfile(&profile, o); err != nil {
		return err
	}
	if !servesSymmetric(&profile) {
		return fmt.Errorf("the token cannot serve %s keys", keyspec.SymmetricDefault)
	}
	if o.exercise {
		if err := p.exercise(ctx, engine, o.exercised); err != nil {
			return err
		}
	}
	return good(engine)
}

// acceptProbed notes that a token is to be served as it is now, if that is ordered.
func (p *program) acceptProbed(ctx context.Context, o probeOptions, i *installation, engine *pkcs11.Engine) error {
	if !o.accept {
		return nil
	}
	is, err := engine.Fingerprint(ctx)
	if err == nil {
		err = i.acceptToken(ctx, "hsm probe", engine, is)
	}
	if err == nil {
		fmt.Fprintf(p.stderr, "Token %s is accepted as it is now, with firmware %s and %d mechanisms.\n", engine.Stats().Serial, is.Firmware, len(is.Mechanisms))
	}
	return err
}

// describe prints what can be said of a token that does not serve, if anything
// can; what is wrong was said already.
func (p *program) describe(o probeOptions) error {
	if profile, err := pkcs11.Describe(o.engine); err == nil {
		return p.printProfile(&profile, o)
	}
	return nil
}

func (p *program) printProfile(profile *pkcs11.Profile, o probeOptions) error {
	if !o.json {
		return profile.Write(p.stdout, o.strict)
	}
	encoder := json.NewEncoder(p.stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(profile)
}

// servesSymmetric tells whether symmetric keys can be made.
func servesSymmetric(profile *pkcs11.Profile) bool {
	for _, k := range profile.Keys {
		if k.Spec == keyspec.SymmetricDefault && k.Residency != pkcs11.Nowhere {
			return true
		}
	}
	return false
}
