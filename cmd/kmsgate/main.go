// Command kmsgate is the AWS KMS API on your own HSMs.
//
// Run kmsgate help for its commands and kmsgate COMMAND -h for the flags of one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// A command is one subcommand of kmsgate.
type command struct {
	name     string
	synopsis string // one line
	// run does the work. args are those after the command's name.
	run func(ctx context.Context, p *program, args []string) error
}

// commands in the order in which people need them.
var commands = []command{
	{"dev", "start a complete private gateway on SoftHSM and Postgres, for development", runDev},
	{"serve", "serve the KMS API by a configuration file", runServe},
	{"migrate", "bring the database's schema to this version", runMigrate},
	{"init", "make a token's service keys and the first account, once", runInit},
	{"account", "create and list accounts, make root access keys", runAccount},
	{"iam", "end the sessions of a role", runIAM},
	{"oidc", "upload and show the keys of OIDC providers", runOIDC},
	{"audit", "read the audit log", runAudit},
	{"explain", "say why a request was refused, and what would allow it", runExplain},
	{"access", "list who can do what with a key, and through what", runAccess},
	{"hsm", "look into tokens, rotate and destroy domain keys, make the TLS key, try a PIN", runHSM},
	{"doctor", "examine a whole installation and say what is wrong", runDoctor},
	{"bench", "measure a gateway against its token on this machine", runBench},
	{"version", "print the version", runVersion},
}

// program is what a command may use of the process.
type program struct {
	stdout io.Writer
	stderr io.Writer
}

// Exit codes besides 0 and 1.
const exitUsage = 2

// errUsage is a wrong command line that was already explained.
var errUsage = errors.New("usage")

// usageError is a wrong command line that main has to explain yet.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := &program{stdout: os.Stdout, stderr: os.Stderr}
	code := p.main(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// main runs a command line and returns the exit code.
func (p *program) main(ctx context.Context, args []string) int {
	if len(args) == 0 || args[0] == "help" || asksHelp(args[0]) {
		p.usage(p.stdout)
		return 0
	}
	for _, c := range commands {
		if c.name != args[0] {
			continue
		}
		return p.exitCode(c.name, c.run(ctx, p, args[1:]))
	}
	fmt.Fprintf(p.stderr, "kmsgate: there is no command %q\n\n", args[0])
	p.usage(p.stderr)
	return exitUsage
}

// exitCode says what went wrong, unless that was done, and with which code to exit.
func (p *program) exitCode(command string, err error) int {
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return exitUsage
	}
	fmt.Fprintf(p.stderr, "kmsgate %s: %v\n", command, err)
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(p.stderr, "kmsgate %s -h shows the usage.\n", command)
		return exitUsage
	}
	return 1
}

func (p *program) usage(w io.Writer) {
	fmt.Fprint(w, "kmsgate is the AWS KMS API on your own HSMs.\n\nUsage:\n\n\tkmsgate COMMAND [flags]\n\nCommands:\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "\t%-8s %s\n", c.name, c.synopsis)
	}
	fmt.Fprint(w, "\nkmsgate COMMAND -h shows the flags of a command.\n")
}

// flags is a flag set that explains itself: what the command does, how it is
// called, its flags with their defaults.
func (p *program) flags(usage, description string) *flag.FlagSet {
	set := flag.NewFlagSet("kmsgate", flag.ContinueOnError)
	set.SetOutput(p.stderr)
	set.Usage = func() {
		fmt.Fprintf(set.Output(), "Usage: kmsgate %s\n\n%s\n", usage, description)
		any := false
		set.VisitAll(func(*flag.Flag) { any = true })
		if any {
			fmt.Fprint(set.Output(), "\nFlags:\n")
			set.PrintDefaults()
		}
	}
	return set
}

// parse reads the flags and refuses arguments beyond them. Help that was asked
// for goes to standard output.
func (p *program) parse(set *flag.FlagSet, args []string) error {
	if slices.ContainsFunc(args, asksHelp) {
		set.SetOutput(p.stdout)
	}
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage // flag has explained it
	}
	if set.NArg() > 0 {
		fmt.Fprintf(set.Output(), "unexpected argument %q\n", set.Arg(0))
		set.Usage()
		return errUsage
	}
	return nil
}

// parseOne reads the flags and the one argument that stands before or among them.
func (p *program) parseOne(set *flag.FlagSet, args []string, what string) (string, error) {
	if slices.ContainsFunc(args, asksHelp) {
		return "", p.parse(set, []string{"-h"})
	}
	one := ""
	for len(args) > 0 {
		if one == "" && !strings.HasPrefix(args[0], "-") {
			one, args = args[0], args[1:]
			continue
		}
		if err := set.Parse(args); err != nil {
			return "", errUsage // flag has explained it
		}
		if args = set.Args(); one != "" && len(args) > 0 {
			return "", p.parse(set, args) // which refuses it
		}
	}
	if one == "" {
		return "", usagef("%s is missing", what)
	}
	return one, nil
}

// asksHelp tells whether an argument is the flag for help.
func asksHelp(arg string) bool {
	return arg == "-h" || arg == "-help" || arg == "--h" || arg == "--help"
}

// subcommand runs one of a command's own commands.
func (p *program) subcommand(ctx context.Context, parent string, table []command, args []string) error {
	if len(args) > 0 {
		for _, c := range table {
			if c.name == args[0] {
				return c.run(ctx, p, args[1:])
			}
		}
	}
	help := len(args) > 0 && (args[0] == "help" || asksHelp(args[0]))
	w := p.stderr
	if help {
		w = p.stdout
	} else if len(args) > 0 {
		fmt.Fprintf(w, "kmsgate %s: there is no command %q\n\n", parent, args[0])
	}
	fmt.Fprintf(w, "Usage: kmsgate %s COMMAND [flags]\n\nCommands:\n\n", parent)
	width := 9
	for _, c := range table {
		width = max(width, len(c.name))
	}
	for _, c := range table {
		fmt.Fprintf(w, "\t%-*s %s\n", width, c.name, c.synopsis)
	}
	if help {
		return nil
	}
	return errUsage
}
