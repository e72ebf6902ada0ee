package daemon

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// adminGrace is how long the admin listener lets requests finish when the process ends: enough for a scrape, too
// little for a profile.
const adminGrace = time.Second

// admin serves operators: health, readiness, metrics, profiles.
type admin struct {
	server *http.Server
	served chan struct{} // closed once Serve has returned
}

// listenAdmin serves at addr until shutdown or close.
func listenAdmin(addr string, d *Daemon) (*admin, error) {
	errorLog, err := zap.NewStdLogAt(d.Log.Named("admin"), zap.WarnLevel)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	a := &admin{
		server: &http.Server{
			Handler:           adminHandler(d, errorLog),
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      30 * time.Second, // pprof adds the length of the profile
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          errorLog,
		},
		served: make(chan struct{}),
	}
	d.Log.Info("admin listener is up", zap.Stringer("addr", listener.Addr()))
	go func() {
		defer close(a.served)
		_ = a.server.Serve(listener) // a service works without its admin listener
	}()
	return a, nil
}

// shutdown stops listening, waits adminGrace for requests under way, and cuts off the rest.
func (a *admin) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), adminGrace)
	defer cancel()
	if a.server.Shutdown(ctx) != nil {
		_ = a.server.Close()
	}
	<-a.served
}

// close cuts everything off at once.
func (a *admin) close() {
	_ = a.server.Close()
	<-a.served
}

func adminHandler(d *Daemon, errorLog *log.Logger) http.Handler {
	mux := d.Admin
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := d.Ready(); err != nil {
			respond(w, http.StatusServiceUnavailable, "not ready\n"+err.Error())
			return
		}
		respond(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.Metrics, promhttp.HandlerOpts{
		Registry: d.Metrics,
		ErrorLog: errorLog,
		Timeout:  20 * time.Second,
	}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

func respond(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}
