package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"mime"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata/audit"
)

// Media types of the two protocols, without parameters.
const (
	jsonMedia = "application/x-amz-json-1.1"
	formMedia = "application/x-www-form-urlencoded"
)

// targetPrefix is what X-Amz-Target begins with for KMS.
const targetPrefix = "TrentService."

// verbatim is an answer of AWS's front end to what is of none of its protocols;
// it has no content type.
type verbatim struct {
	status int
	body   string
}

var (
	// notOurs answers what cannot be told to be a request at all.
	notOurs = verbatim{http.StatusForbidden, "<AccessDeniedException>\n  <Message>Unable to determine service/operation name to be authorized</Message>\n</AccessDeniedException>\n"}
	// unknownMedia answers a target that comes with a foreign media type.
	unknownMedia = verbatim{http.StatusNotFound, "<UnknownOperationException/>\n"}
)

// Handler is the public HTTP interface: the API on /, and the two health checks.
func (g *Gateway) Handler() http.Handler {
	r := chi.NewRouter()
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok\n") })
	r.Get("/readyz", g.serveReady)
	r.NotFound(g.serveAPI)
	r.MethodNotAllowed(g.serveAPI)
	r.HandleFunc("/", g.serveAPI)
	return r
}

func (g *Gateway) serveReady(w http.ResponseWriter, r *http.Request) {
	if err := g.fit(r.Context()); err != nil {
		g.logger.Warn("not ready", "error", err)
		plain(w, http.StatusServiceUnavailable, notReady(err))
		return
	}
	plain(w, http.StatusOK, "ready\n")
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client may be gone; there is nobody to tell
}

// serveAPI answers one request.
func (g *Gateway) serveAPI(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), g.workTimeout)
	defer cancel()
	c := g.newCall(ctx, r)
	c.extend = http.NewResponseController(w).SetWriteDeadline
	g.metrics.inFlight.Inc()
	defer g.metrics.inFlight.Dec()

	body, wire := g.serve(c, r)
	defer clear(body)
	status, code := http.StatusOK, "OK"
	if wire != nil {
		code = string(wire.Code)
		status, body = c.protocol().encodeError(c, wire)
	}
	c.answer(w, status, body)
	took := g.clock().Sub(c.now)
	g.metrics.answered(c.op, code, took)
	g.logger.LogAttrs(ctx, slog.LevelInfo, "request", slog.String("request_id", c.requestID), slog.String("operation", c.event.Name),
		slog.String("code", code), slog.String("account", c.caller.Account), slog.String("access_key", c.event.Identity.AccessKeyID),
		slog.String("source_ip", c.event.SourceIP), slog.Int64("took_us", took.Microseconds()), slog.String("detail", c.detail))
}

// serve keeps requests within the in-flight limit, and a panic within its
// request: the answer is an internal error, and it is recorded.
func (g *Gateway) serve(c *call, r *http.Request) (body []byte, wire *kmsapi.Error) {
	defer func() {
		if p := recover(); p != nil {
			g.logger.Error("panic", "request_id", c.requestID, "operation", c.event.Name, "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			body, wire = nil, kmsapi.Internal()
			c.disown()
			c.resources = nil
			if err := c.record(wire); err != nil {
				g.logger.Error("panic not recorded", "request_id", c.requestID, "error", err)
			}
		}
	}()
	defer c.leave()
	if !c.enter(g.reading) {
		c.shed = true
		wire = kmsapi.Throttled()
		_ = c.record(wire) // only counts
		return nil, wire
	}
	return c.walk(r)
}

// unknownOperation is the name of what named no operation, in records and metrics.
const unknownOperation = "Unknown"

func (g *Gateway) newCall(ctx context.Context, r *http.Request) *call {
	c := &call{gateway: g, ctx: ctx, requestID: uuid.NewString(), now: g.clock(), view: g.store.View(), service: serviceKMS, referer: r.Referer()}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = "0.0.0.0"
	}
	c.event = audit.Event{
		Identity: audit.UserIdentity{Type: audit.Unknown}, Time: c.now, Source: serviceKMS.eventSource(), Name: unknownOperation,
		Region: g.regions[0].Name, SourceIP: host, UserAgent: r.UserAgent(),
		RequestID: c.requestID, EventID: uuid.NewString(), Type: audit.APICall,
	}
	if r.TLS != nil {
		c.event.TLS = audit.TLSDetails{
			Version:     strings.Replace(tls.VersionName(r.TLS.Version), "TLS ", "TLSv", 1),
			CipherSuite: tls.CipherSuiteName(r.TLS.CipherSuite), Host: r.Host,
		}
	}
	return c
}

// route is what a request's headers name an operation by.
type route struct {
	service service
	name    string
}

// routesOf makes the look-up table of operations; refused ones are on it too.
func routesOf(served []operation, refused []refusal) map[route]*operation {
	routes := make(map[route]*operation, len(served)+len(refused))
	for i := range served {
		routes[route{served[i].service, served[i].name}] = &served[i]
	}
	for i := range refused {
		routes[route{serviceKMS, refused[i].operation}] = &operation{
			service: serviceKMS, name: refused[i].operation, refusal: &refused[i],
			bucket: bucket(refused[i].operation), readOnly: refused[i].readOnly,
		}
	}
	return routes
}

// route finds the operation that a request's headers name. A form names its own
// in the body or the query string, which nobody reads before its sender is known.
func (c *call) route(r *http.Request) error {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		media = ""
	}
	switch {
	case isForCredentials(r):
		return c.routeCredentials(r)
	case media == jsonMedia && r.Method == http.MethodPost:
		name, ok := strings.CutPrefix(targetOf(r), targetPrefix)
		if !ok {
			return kmsapi.UnknownOperation()
		}
		return c.take(route{serviceKMS, name})
	case media == formMedia && r.Method == http.MethodPost:
		c.speak(serviceSTS)
		return nil
	case r.Method == http.MethodGet && r.URL.RawQuery != "":
		c.speak(serviceSTS)
		c.query = r.URL.RawQuery
		return nil
	case r.Method == http.MethodPost && targetOf(r) != "":
		c.foreign = &unknownMedia
	default:
		c.foreign = &notOurs
	}
	return kmsapi.UnknownOperation()
}

// speak answers in a service's protocol from here on.
func (c *call) speak(s service) {
	c.service, c.event.Source = s, s.eventSource()
}

// address tells which service a form is for: the one that it was signed for, STS
// if it is none of those that take forms.
func (c *call) address(scope string) {
	if s := service(scope); c.op == nil && protocols[s].version != "" {
		c.speak(s)
	}
}

// name finds the operation of a form whose sender is known by now; the others
// have theirs already.
func (c *call) name() error {
	if c.op != nil {
		return nil
	}
	text := c.query
	if text == "" {
		text = string(c.body)
	}
	form, err := awsquery.Parse(text)
	if err != nil {
		return err
	}
	if c.form = form; form.Version != c.protocol().version {
		return awsquery.UnknownAction(form)
	}
	return c.take(route{c.service, form.Action})
}

// take makes the call one of the operation.
func (c *call) take(named route) error {
	if c.op = c.gateway.routes[named]; c.op == nil {
		return c.protocol().unknown(c)
	}
	c.event.Name, c.event.ReadOnly = c.op.name, c.op.readOnly
	return nil
}

// targetOf is the request's X-Amz-Target. Signers of query strings move it
// there; a request that has it in both places has none.
func targetOf(r *http.Request) string {
	header, query := r.Header.Get("X-Amz-Target"), r.URL.Query().Get("X-Amz-Target")
	if header != "" && query != "" {
		return ""
	}
	return header + query
}

func (c *call) protocol() protocol { return protocols[c.service] }

// noStore keeps answers out of caches.
var noStore = http.Header{
	"Cache-Control": {"no-cache, no-store, must-revalidate, private"}, "Expires": {"0"}, "Pragma": {"no-cache"},
}

// answer writes the response. The headers are those of KMS.
func (c *call) answer(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	if c.foreign != nil {
		status, body = c.foreign.status, []byte(c.foreign.body)
		h["Content-Type"] = nil
	} else {
		h.Set("Content-Type", c.protocol().contentType)
	}
	h["x-amzn-RequestId"] = []string{c.requestID}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	maps.Copy(h, noStore)
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone; the request is recorded all the same
}
