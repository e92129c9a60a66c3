package arn

import "strings"

// IAM's ARNs have no region. A path begins and ends with a slash; "/" is none.

// User is the ARN of a user.
func User(account, path, name string) string { return iam(account, "user", path, name) }

// Group is the ARN of a group.
func Group(account, path, name string) string { return iam(account, "group", path, name) }

// Role is the ARN of a role.
func Role(account, path, name string) string { return iam(account, "role", path, name) }

// Policy is the ARN of a managed policy.
func Policy(account, path, name string) string { return iam(account, "policy", path, name) }

// Provider is the ARN of an OIDC provider; its URL comes without "https://".
func Provider(account, url string) string { return iam(account, "oidc-provider", "/", url) }

// RoleSession is the ARN of a session of a role. It does not have the role's path.
func RoleSession(account, role, session string) string {
	return "arn:" + Partition + ":sts::" + account + ":assumed-role/" + role + "/" + session
}

func iam(account, kind, path, name string) string {
	return "arn:" + Partition + ":iam::" + account + ":" + kind + path + name
}

// IAM is a parsed ARN of IAM or STS.
type IAM struct {
	Service string // "iam", "sts"
	Account string // 12 digits
	Kind    string // "root", "user", "group", "role", "policy", "oidc-provider", "assumed-role", "federated-user"
	Path    string // "/" if there is none
	Name    string // for an assumed-role "role/session"; empty for the root
}

// ParseIAM reads an ARN of IAM or STS; ok is false for everything else. It knows
// syntax only, and not which characters a name may have.
func ParseIAM(s string) (a IAM, ok bool) {
	p := strings.SplitN(s, ":", 6)
	if len(p) != 6 || p[0] != "arn" || p[1] != Partition || p[3] != "" || !IsAccount(p[4]) {
		return IAM{}, false
	}
	a = IAM{Service: p[2], Account: p[4], Path: "/"}
	if a.Service == "iam" && p[5] == "root" {
		a.Kind = "root"
		return a, true
	}
	kind, rest, cut := strings.Cut(p[5], "/")
	if !cut || rest == "" {
		return IAM{}, false
	}
	a.Kind, a.Name = kind, rest
	switch a.Service + ":" + kind {
	case "iam:user", "iam:group", "iam:role", "iam:policy":
		if i := strings.LastIndexByte(rest, '/'); i >= 0 {
			a.Path, a.Name = "/"+rest[:i+1], rest[i+1:]
		}
	case "iam:oidc-provider", "sts:federated-user":
	case "sts:assumed-role":
		if strings.Count(rest, "/") != 1 {
			return IAM{}, false
		}
	default:
		return IAM{}, false
	}
	return a, a.Name != ""
}
