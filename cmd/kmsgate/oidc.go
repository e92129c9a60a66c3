package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/identity"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// oidcCommands are the subcommands of oidc.
var oidcCommands = []command{
	{"set-keys", "upload the keys that a provider's tokens are verified with", runOIDCSetKeys},
	{"show", "print an account's OIDC providers and where their keys come from", runOIDCShow},
}

func runOIDC(ctx context.Context, p *program, args []string) error {
	return p.subcommand(ctx, "oidc", oidcCommands, args)
}

const setKeysUsage = `Uploads the JWK set that tokens of an OIDC provider are verified with, for sites
that must not ask the issuer; the audit log has it. The provider is made before,
with aws iam create-open-id-connect-provider. The file is what the issuer serves
as its jwks_uri (of a Kubernetes cluster: kubectl get --raw /openid/v1/jwks): up
to 64 KiB of public keys for signatures, RSA, ECDSA or Ed25519. It replaces the
keys uploaded before: when the issuer changes its keys, upload the new and the
old ones together first. -clear has the issuer asked again. Needs no token.`

func runOIDCSetKeys(ctx context.Context, p *program, args []string) error {
	set := p.flags("oidc set-keys -config FILE -provider ARN {-jwks FILE | -clear}", setKeysUsage)
	path := set.String("config", "", "configuration `file` (required)")
	provider := set.String("provider", "", "`ARN` of the provider (required)")
	jwks := set.String("jwks", "", "`file` with the JWK set")
	forget := set.Bool("clear", false, "forget the uploaded keys")
	if err := p.parse(set, args); err != nil {
		return err
	}
	of, err := parseProvider(*provider)
	if err != nil {
		return err
	}
	if (*jwks == "") != *forget {
		return usagef("either -jwks or -clear must be given")
	}
	var keys identity.KeySet
	if !*forget {
		if keys, err = readKeySet(*jwks); err != nil {
			return err
		}
	}
	return p.withDatabase(ctx, *path, func(i *installation) error {
		if err := i.setProviderKeys(ctx, "oidc set-keys", of, keys); err != nil {
			return err
		}
		printKeys(p.stdout, keys)
		return nil
	})
}

// parseProvider refuses what is no ARN of an OIDC provider.
func parseProvider(text string) (arn.IAM, error) {
	a, ok := arn.ParseIAM(text)
	if !ok || a.Kind != "oidc-provider" {
		return arn.IAM{}, usagef("-provider is %q: it must be like arn:aws:iam::111122223333:oidc-provider/oidc.example.com", text)
	}
	return a, nil
}

// maxKeyFile is how much of a file is read: enough to tell that it is too large.
const maxKeyFile = 1 << 20

func readKeySet(path string) (identity.KeySet, error) {
	f, err := os.Open(path)
	if err != nil {
		return identity.KeySet{}, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err := errors.Join(err, f.Close()); err != nil {
		return identity.KeySet{}, err
	}
	keys, err := identity.ParseKeySet(text)
	if err != nil {
		return identity.KeySet{}, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// setProviderKeys stores the keys of a provider; none means that its issuer is asked.
func (i *installation) setProviderKeys(ctx context.Context, command string, of arn.IAM, keys identity.KeySet) error {
	var fingerprints []string
	for _, k := range keys.Keys {
		fingerprints = append(fingerprints, k.Fingerprint)
	}
	provider := arn.Provider(of.Account, of.Name)
	event := adminEvent(command, "SetOpenIDConnectProviderKeys", of.Account, "", time.Now(), audit.Members{
		audit.String("openIDConnectProviderArn", provider), audit.Strings("keyFingerprints", fingerprints),
	})
	err := i.store.Change(ctx, i.store.View(), func(tx *metadata.Tx) ([]byte, error) {
		return event, tx.SetJWKS(ctx, of.Account, of.Name, keys.Text)
	})
	if errors.Is(err, metadata.ErrNotFound) {
		return fmt.Errorf("there is no OIDC provider %s; kmsgate oidc show lists those of an account", provider)
	}
	return err
}

func printKeys(w io.Writer, keys identity.KeySet) {
	if len(keys.Keys) == 0 {
		fmt.Fprintln(w, "  keys: those of the issuer, which is asked")
		return
	}
	fmt.Fprintln(w, "  keys: uploaded, the issuer is not asked")
	for _, k := range keys.Keys {
		fmt.Fprintf(w, "    kid %q, alg %q, SHA-256 %s\n", k.ID, k.Algorithm, k.Fingerprint)
	}
}

func runOIDCShow(ctx context.Context, p *program, args []string) error {
	set := p.flags("oidc show -config FILE -account ACCOUNT", "Prints the OIDC providers of an account, their client ids and their uploaded keys;\nthe audit log has it. Needs no token.")
	path, account, err := p.parseAccount(set, args)
	if err != nil {
		return err
	}
	return p.withDatabase(ctx, path, func(i *installation) error {
		if err := i.record(ctx, adminEvent("oidc show", "ListOpenIDConnectProviders", account, "", time.Now(), nil)); err != nil {
			return err
		}
		providers, err := i.store.ListProviders(ctx, account)
		if err != nil {
			return err
		}
		for n := range providers {
			if err := printProvider(p.stdout, &providers[n]); err != nil {
				return err
			}
		}
		return nil
	})
}

func printProvider(w io.Writer, p *metadata.Provider) error {
	fmt.Fprintf(w, "%s\n  client ids: %s\n", p.ARN(), strings.Join(p.ClientIDs, ", "))
	var keys identity.KeySet
	if p.JWKS != "" {
		var err error
		if keys, err = identity.ParseKeySet([]byte(p.JWKS)); err != nil {
			return fmt.Errorf("stored keys of %s: %w", p.ARN(), err)
		}
	}
	printKeys(w, keys)
	return nil
}
