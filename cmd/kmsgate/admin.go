package main

import (
	"errors"
	"net/http"
	"net/http/pprof"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kmsgate/gateway"
	"kmsgate/metadata"
)

// adminCommand is what the audit log calls the one who asks by the admin listener.
const adminCommand = "admin listener"

// adminHandler serves what operators and Prometheus look at, on loopback: metrics,
// profiles, and the answers of explain and access as JSON.
func (i *installation) adminHandler(registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /explain/{request}", i.serveExplain)
	mux.HandleFunc("GET /access/{key...}", i.serveAccess)
	return mux
}

func (i *installation) serveExplain(w http.ResponseWriter, r *http.Request) {
	request, err := uuid.Parse(r.PathValue("request"))
	if err != nil {
		i.answer(w, http.StatusBadRequest, map[string]string{"error": "not a request id"})
		return
	}
	refused, err := i.explain(r.Context(), adminCommand, request)
	i.answerOr(w, refused, err)
}

func (i *installation) serveAccess(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	found, err := i.access(r.Context(), adminCommand, gateway.AccessQuery{
		Key: r.PathValue("key"), Account: query.Get("account"), Region: query.Get("region"),
	})
	i.answerOr(w, found, err)
}

// answerOr answers with v, or with what is wrong.
func (i *installation) answerOr(w http.ResponseWriter, v any, err error) {
	_, unknown := errors.AsType[*unknownRequestError](err)
	question, wrong := errors.AsType[*gateway.QuestionError](err)
	switch {
	case err == nil:
		i.answer(w, http.StatusOK, v)
	case unknown, errors.Is(err, metadata.ErrNotFound):
		i.answer(w, http.StatusNotFound, map[string]string{"error": err.Error()})
	case wrong:
		i.answer(w, http.StatusBadRequest, map[string]string{"error": question.Error()})
	default:
		i.logger.Error("admin listener: not answered", "error", err)
		i.answer(w, http.StatusInternalServerError, map[string]string{"error": "see the log"})
	}
}

func (i *installation) answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = writeJSON(w, v) // the client may be gone; there is nobody to tell
}
