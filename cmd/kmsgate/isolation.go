package main

import (
	"cmp"
	"context"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"kmsgate/hsm/pkcs11"
	"kmsgate/hsm/worker"
)

// workerCommand is the command of hsm that is a module's own process. It is listed
// nowhere: the gateway alone starts it.
const workerCommand = "worker"

// runWorker serves the gateway that has started this process.
func (p *program) runWorker(level string) error {
	logger, err := newLogger(p.stderr, level)
	if err != nil {
		return err
	}
	return worker.Serve(os.NewFile(worker.Inherited, "gateway"), logger.With("worker", os.Getpid()))
}

// open opens a token of a module where that runs.
func (i *installation) open(ctx context.Context, m moduleConfig, c pkcs11.Config, metrics prometheus.Registerer) (tokenEngine, error) {
	if m.Isolation != isolationProcess {
		return opened(i.module(m).Open(ctx, c))
	}
	w, ok := i.workers[m.Path]
	if !ok {
		w = worker.New([]string{"hsm", workerCommand, cmp.Or(i.config.Log, "info")}, i.logger)
		i.workers[m.Path] = w
		watchWorker(metrics, m.Path, w)
	}
	return opened(w.Open(ctx, c))
}

// opened is no engine at all where there is an error.
func opened[E tokenEngine](engine E, err error) (tokenEngine, error) {
	if err != nil {
		return nil, err
	}
	return engine, nil
}

// watchWorker registers the numbers of a module's process; registerer may be nil.
func watchWorker(registerer prometheus.Registerer, module string, w *worker.Worker) {
	if registerer == nil {
		return
	}
	registerer.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "kmsgate_worker_restarts_total", Help: "Times that a library's process was replaced, because it had crashed or hung.",
		ConstLabels: prometheus.Labels{"module": module},
	}, func() float64 { return float64(w.Restarts()) }))
}
