package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/identity"
	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/metadata/pgserver"
	"kmsgate/softhsm"
)

const devUsage = `Starts a complete private gateway in one process: a SoftHSM token for each region
and a Postgres of its own under -dir, made from the installed programs when they
are not there yet. It writes dev.env for the first account and dev-ACCOUNT.env for the others,
serves until Ctrl-C, and comes up again on the same directory with all keys and
the same credentials.

It is for development, not for production: SoftHSM keeps keys in files, the PIN
lies beside them, there is no TLS and request rates are off.`

// What dev calls the token of its first region and its database.
const (
	devToken    = "kmsgate"
	devDatabase = "kmsgate"
)

// regionPattern is what a region may be called, short enough for the name of its
// key store.
var regionPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,49}$`)

// devOptions are the flags of dev.
type devOptions struct {
	dir      string
	listen   string
	regions  []string
	accounts []string
}

func runDev(ctx context.Context, p *program, args []string) error {
	set := p.flags("dev [flags]", devUsage)
	dir := set.String("dir", ".kmsgate", "`directory` of token, database and credentials")
	listen := set.String("listen", "127.0.0.1:4599", "loopback `address` to listen on")
	accounts := set.String("accounts", "111122223333", "`accounts` to create, 12 digits each, separated by commas")
	regions := set.String("regions", "us-east-1", "`regions` that are served, separated by commas; credentials name the first")
	if err := p.parse(set, args); err != nil {
		return err
	}
	o := devOptions{dir: *dir, listen: *listen, regions: strings.Split(*regions, ","), accounts: strings.Split(*accounts, ",")}
	if err := o.check(); err != nil {
		return err
	}
	return p.dev(ctx, o)
}

func (o *devOptions) check() (err error) {
	for n, a := range o.accounts {
		if !arn.IsAccount(a) {
			return usagef("-accounts: %q is not 12 digits", a)
		}
		if slices.Contains(o.accounts[:n], a) {
			return usagef("-accounts: %s is there twice", a)
		}
	}
	if !isLoopback(o.listen) {
		return usagef("-listen: %q is not 127.0.0.1:PORT or [::1]:PORT, and dev serves on loopback only: it has no TLS (kmsgate serve has)", o.listen)
	}
	for n, r := range o.regions {
		if !regionPattern.MatchString(r) {
			return usagef("-regions: %q is not a region, such as us-east-1", r)
		}
		if slices.Contains(o.regions[:n], r) {
			return usagef("-regions: %s is there twice", r)
		}
	}
	if o.dir == "" {
		return usagef("-dir is empty")
	}
	o.dir, err = filepath.Abs(o.dir)
	return err
}

// dirMode is the mode of a new -dir. Postgres's user, who is another one for
// root, has to pass through; what holds secrets inside is private by itself.
func (o *devOptions) dirMode() os.FileMode {
	if os.Geteuid() == 0 {
		return 0o711
	}
	return 0o700
}

// dev starts what is needed, in order, and stops it in reverse.
func (p *program) dev(ctx context.Context, o devOptions) error {
	logger := slog.New(slog.NewTextHandler(p.stderr, nil))
	fmt.Fprintln(p.stderr, "kmsgate dev: for development only, not for production.")
	if err := os.MkdirAll(o.dir, o.dirMode()); err != nil {
		return err
	}
	server, err := pgserver.Start(ctx, pgserver.Config{Dir: filepath.Join(o.dir, "postgres"), Durable: true})
	if err != nil {
		return err
	}
	if note := server.Note(); note != "" {
		fmt.Fprintln(p.stderr, note)
	}
	return errors.Join(p.devOn(ctx, o, server, logger), server.Stop())
}

// devOn serves on a database that is running.
func (p *program) devOn(ctx context.Context, o devOptions, server *pgserver.Server, logger *slog.Logger) error {
	err := metadata.CreateDatabase(ctx, server.URL("postgres"), devDatabase, "")
	if err != nil && !errors.Is(err, metadata.ErrExists) {
		return err
	}
	c, err := o.config(server.URL(devDatabase))
	if err != nil {
		return err
	}
	if err := metadata.Migrate(ctx, c.Database.URL); err != nil {
		return err
	}
	registry := newRegistry()
	i, err := openDatabase(ctx, c, logger, registry)
	if err != nil {
		return err
	}
	err = i.devTokens(ctx, o, filepath.Dir(server.Dir()))
	if err == nil {
		err = i.openTokens(ctx, registry)
	}
	if err == nil {
		err = i.acceptTokens(ctx, "dev")
	}
	if err == nil {
		err = i.ensureRegions(ctx, "dev")
	}
	if err == nil {
		err = p.devServe(ctx, o, i, registry)
	}
	return errors.Join(err, i.close(ctx))
}

// config is all of the configuration but the tokens.
func (o *devOptions) config(databaseURL string) (*config, error) {
	regions, err := o.configRegions()
	off := false
	return &config{
		Listen: o.listen, AdminListen: "127.0.0.1:0", Instance: "dev", Throttling: &off,
		Database: databaseConfig{URL: databaseURL}, Regions: regions, OIDC: oidcConfig{Loopback: true},
	}, err
}

// configRegions are the regions that were asked for and, after them, those of
// earlier starts: what is sealed in their stores, such as the secrets of access
// keys, stays in use. Each keeps the token that it has had.
func (o *devOptions) configRegions() ([]regionConfig, error) {
	before, err := readConfig(o.configFile())
	if errors.Is(err, os.ErrNotExist) { // the first start
		before, err = &config{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w; it tells the regions of earlier starts: mend it, or remove it if there was only this one", err)
	}
	var regions []regionConfig
	for n, name := range o.regions {
		r := regionConfig{Name: name, Store: "default-" + name, Token: devTokenOf(name)}
		if n == 0 && len(before.Regions) == 0 {
			r.Token = devToken
		}
		if known := slices.IndexFunc(before.Regions, func(r regionConfig) bool { return r.Name == name }); known >= 0 {
			r = before.Regions[known]
		}
		regions = append(regions, r)
	}
	for _, r := range before.Regions {
		if !slices.Contains(o.regions, r.Name) {
			regions = append(regions, r)
		}
	}
	return regions, nil
}

// devTokenOf is the label of a region's token, of at most 32 bytes.
func devTokenOf(region string) string {
	label := devToken + "-" + region
	if len(label) > maxLabelBytes {
		label = fmt.Sprintf("%s-%x", devToken, sha256.Sum256([]byte(region)))[:maxLabelBytes]
	}
	return label
}

// maxLabelBytes is as long as the label of a token may be (PKCS#11 v2.40,
// section 3.2).
const maxLabelBytes = 32

// devTokens makes the tokens of the regions, or finds them, and adds them to the
// configuration.
func (i *installation) devTokens(ctx context.Context, o devOptions, cluster string) error {
	var module moduleConfig
	for _, r := range i.config.Regions {
		token, err := i.devToken(ctx, o, r, cluster)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(module.Tokens, func(t tokenConfig) bool { return t.Name == r.Token }) {
			continue
		}
		module.Path, module.Environment = token.Module, map[string]string{"SOFTHSM2_CONF": token.ConfPath}
		module.Tokens = append(module.Tokens, tokenConfig{Name: r.Token, Serial: token.Serial, PINFile: token.PINFile})
	}
	i.config.Modules = []moduleConfig{module}
	return o.writeConfig(i.config)
}

// devToken makes the token of a region, or finds it. A database that knows keys in
// another token is of no use without that one: a new token would only hide that
// they are lost.
func (i *installation) devToken(ctx context.Context, o devOptions, r regionConfig, cluster string) (softhsm.Token, error) {
	keys, err := i.store.ServiceKeys(ctx, r.Store)
	if err != nil {
		return softhsm.Token{}, err
	}
	var needed string // serial
	for _, k := range keys {
		if len(k.Tokens) > 0 {
			needed = k.Tokens[0]
		}
	}
	dir := filepath.Join(o.dir, "softhsm")
	made, err := os.ReadDir(filepath.Join(dir, "tokens"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return softhsm.Token{}, err
	}
	if needed != "" && len(made) == 0 {
		return softhsm.Token{}, o.errTokenGone(needed, cluster)
	}
	token, err := softhsm.Provision(dir, r.Token)
	if err == nil && needed != "" && needed != token.Serial {
		err = o.errTokenGone(needed, cluster)
	}
	return token, err
}

// errTokenGone says how to begin anew. cluster is where the database lies.
func (o *devOptions) errTokenGone(serial, cluster string) error {
	remove := o.dir
	if inside, err := filepath.EvalSymlinks(o.dir); err != nil || !strings.HasPrefix(cluster, inside+string(filepath.Separator)) {
		remove += " and " + cluster
	}
	return fmt.Errorf("the keys in the database were made with token %s, which is not in %s any more, and are lost without it; "+
		"put the token back, or remove %s to begin anew", serial, filepath.Join(o.dir, "softhsm"), remove)
}

// configFile is the configuration for the other commands, such as audit tail.
func (o *devOptions) configFile() string { return filepath.Join(o.dir, "kmsgate.yaml") }

func (o *devOptions) writeConfig(c *config) error {
	text, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	return writePrivately(o.configFile(), "# written by kmsgate dev at every start\n"+string(text))
}

// devServe makes the accounts and serves; the credentials are written once the
// address is known.
func (p *program) devServe(ctx context.Context, o devOptions, i *installation, registry *prometheus.Registry) error {
	secrets := map[string]string{}
	for _, account := range o.accounts {
		environment, err := i.devAccount(ctx, account)
		if err != nil {
			return err
		}
		secrets[account] = environment
	}
	return i.serve(ctx, registry, func(at addresses) error {
		if err := o.writeEnvironments(at, secrets); err != nil {
			return err
		}
		p.devWelcome(o, at)
		return nil
	})
}

// devAccount makes sure that an account exists and returns the shell exports of an
// access key of its root: the oldest that is active, hence the same as ever; another
// one if there is none any more.
func (i *installation) devAccount(ctx context.Context, account string) (string, error) {
	known, err := i.store.AccountsExist(ctx, []string{account})
	if err != nil {
		return "", err
	}
	if !known {
		key, secret, err := i.createAccount(ctx, "dev", account)
		defer clear(secret)
		return exports(key.ID, secret), err
	}
	keys, err := i.store.AccessKeysOf(ctx, account, "", "", 1000)
	if err != nil {
		return "", err
	}
	keys = slices.DeleteFunc(keys, func(k metadata.AccessKey) bool { return k.Status != metadata.AccessKeyActive })
	if len(keys) == 0 {
		key, secret, err := i.createRootKey(ctx, "dev", account)
		defer clear(secret)
		return exports(key.ID, secret), err
	}
	oldest := slices.MinFunc(keys, func(a, b metadata.AccessKey) int { return a.CreatedAt.Compare(b.CreatedAt) })
	var tokens []hsm.Token
	for _, e := range i.engines {
		tokens = append(tokens, e)
	}
	secret, err := identity.OpenSecret(ctx, tokens, &oldest)
	defer clear(secret)
	return exports(oldest.ID, secret), err
}

func exports(id string, secret []byte) string {
	return fmt.Sprintf("export AWS_ACCESS_KEY_ID=%s\nexport AWS_SECRET_ACCESS_KEY=%s\n", id, secret)
}

// envFile is the file with the credentials of the nth account.
func (o *devOptions) envFile(n int) string {
	if n == 0 {
		return filepath.Join(o.dir, "dev.env")
	}
	return filepath.Join(o.dir, "dev-"+o.accounts[n]+".env")
}

func (o *devOptions) writeEnvironments(at addresses, secrets map[string]string) error {
	for n, account := range o.accounts {
		var b strings.Builder
		fmt.Fprintf(&b, "# account %s, root access key; for development only\n", account)
		for _, service := range []string{"KMS", "IAM", "STS"} {
			fmt.Fprintf(&b, "export AWS_ENDPOINT_URL_%s=http://%s\n", service, at.api)
		}
		b.WriteString(secrets[account])
		fmt.Fprintf(&b, "export AWS_REGION=%[1]s\nexport AWS_DEFAULT_REGION=%[1]s\n", o.regions[0])
		if err := writePrivately(o.envFile(n), b.String()); err != nil {
			return fmt.Errorf("write credentials: %w", err)
		}
	}
	return nil
}

// writePrivately replaces a file that only its owner may read.
func writePrivately(path, text string) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// devWelcome prints the next commands to type.
func (p *program) devWelcome(o devOptions, at addresses) {
	endpoint := "--endpoint-url http://" + at.api
	regions := "region " + o.regions[0]
	if len(o.regions) > 1 {
		regions = "regions " + strings.Join(o.regions, ", ")
	}
	fmt.Fprintf(p.stdout, `
kmsgate serves the KMS API on http://%s, %s, account %s.
For development only, not for production. Ctrl-C stops it. In another terminal:

  . %s
  aws kms create-key %s
  aws kms list-keys %s
  aws sts get-caller-identity %s

The audit log: kmsgate audit tail -config %s
Metrics and pprof: http://%s/metrics
`, at.api, regions, o.accounts[0], nearby(o.envFile(0)), endpoint, endpoint, endpoint, nearby(o.configFile()), at.admin)
}

// nearby is a path as one would type it here, in a shell.
func nearby(path string) string {
	if here, err := filepath.Abs("."); err == nil {
		relative, err := filepath.Rel(here, path)
		switch {
		case err != nil || strings.HasPrefix(relative, ".."):
		case strings.Contains(relative, "/"):
			path = relative
		default:
			path = "./" + relative // else the shell would look for it in PATH
		}
	}
	if plainWord.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// plainWord is what a shell takes as it is.
var plainWord = regexp.MustCompile(`^[\w./:@%+=,-]+$`)
