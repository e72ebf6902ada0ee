package daemon

import (
	"encoding/json"
	"net/http"
	"runtime/debug"

	"github.com/ringcast/ringcast/shared/ring"
)

// Status is the admin page /status of a node: what operators look at first. Counts of what a node's role does not have are 0.
type Status struct {
	Build string      `json:"build"`
	Ready bool        `json:"ready"`
	Why   string      `json:"why,omitempty"` // it is not ready
	Ring  ring.Status `json:"ring"`

	Lanes       int    `json:"lanes"`       // live: of a gateway to all topic servers, of a topic server from all gateways
	Topics      int    `json:"topics"`      // held by a topic server, subscribed by a gateway
	Sessions    int    `json:"sessions"`    // of a gateway
	Subscribers int    `json:"subscribers"` // channels of a gateway; of a topic server those of all gateways
	Publishes   uint64 `json:"publishes"`   // since the start: sent to owners, or appended
	Sends       uint64 `json:"sends"`       // since the start: messages handed to channels, or sent to gateways
}

// ServeStatus serves /status on the admin listener. fill says what only the service knows.
func (d *Daemon) ServeStatus(fill func() Status) {
	d.Admin.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		s := fill()
		s.Build = version(debug.ReadBuildInfo())
		if err := d.Ready(); err != nil {
			s.Why = err.Error()
		}
		s.Ready = s.Why == ""
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(&s)
	})
}
