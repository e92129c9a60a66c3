package gateway

import (
	"slices"
	"strings"
)

// Service is a service of the site that has a key of its own in each account and
// region that uses it, as AWS's services have their AWS-managed keys: made at first
// use under the alias alias/aws/<name>, used through the service alone, and managed
// by nobody.
type Service struct {
	// Name is what stands in the alias, and before the region in kms:ViaService.
	Name string
	// Callers are the ARNs of the users and roles that the service calls with.
	Callers []string
}

// services are the declared services by name.
type services map[string]Service

func servicesOf(declared []Service) services {
	s := make(services, len(declared))
	for _, d := range declared {
		s[d.Name] = d
	}
	return s
}

// reservedPrefix begins the aliases of services' keys.
const reservedPrefix = "alias/aws/"

// ofAlias is the declared service whose key has an alias.
func (s services) ofAlias(name string) (Service, bool) {
	service, ok := strings.CutPrefix(name, reservedPrefix)
	if !ok {
		return Service{}, false
	}
	declared, ok := s[service]
	return declared, ok
}

// callsAs tells whether a principal, of a session its role, is one that the service
// calls with.
func (s services) callsAs(service, principal string) bool {
	return slices.Contains(s[service].Callers, principal)
}

// principalName is a service's name in policies and conditions in a region.
func principalName(service, region string) string {
	return service + "." + region + ".amazonaws.com"
}

// isServicePrincipal tells whether a name is that of a declared service in a region
// that is served.
func (g *Gateway) isServicePrincipal(name string) bool {
	for service := range g.services {
		if slices.ContainsFunc(g.regions, func(r Region) bool { return name == principalName(service, r.Name) }) {
			return true
		}
	}
	return false
}
