package topicserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/ringcast/ringcast/topicserver/topic"
)

// moveView is where a topic is on its way between servers.
type moveView struct {
	Paused      string   `json:"paused,omitempty"`       // how long requests have waited for its state
	WaitingFor  []string `json:"waiting_for,omitempty"`  // servers that have it for us, or have not told yet
	GivenTo     string   `json:"given_to,omitempty"`     // sealed here for that server, which has not confirmed it yet
	GivenOffset uint64   `json:"given_offset,omitempty"` // where it was sealed
}

// serveTopic is the admin page /debug/topic?name=T[&offset=N]: what this server knows of a topic, and of one of its
// messages if that is remembered.
func (s *Server) serveTopic(w http.ResponseWriter, req *http.Request) {
	name, offset := req.URL.Query().Get("name"), uint64(0)
	var err error
	if text := req.URL.Query().Get("offset"); text != "" {
		if offset, err = strconv.ParseUint(text, 10, 64); err != nil {
			err = fmt.Errorf("offset=%q: want a number", text)
		}
	}
	if name == "" {
		err = fmt.Errorf("want name=TOPIC, and offset=NUMBER to look at a message")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	rg := s.rings.Current()
	page := struct {
		Server      string `json:"server"`
		RingVersion uint64 `json:"ring_version"`
		Owner       string `json:"owner"` // by the ring in use
		topic.View
		Move moveView `json:"move"`
	}{Server: s.cfg.ID, RingVersion: rg.Version(), Owner: rg.Owner(name).ID, View: s.topics.Inspect(name, offset)}
	if page.Paused > 0 {
		page.Move.Paused = page.Paused.String()
	}
	page.Move.WaitingFor = s.take.whoMayHave(name)
	page.Move.GivenTo, page.Move.GivenOffset = s.give.to(name)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(&page)
}

// whoMayHave lists the servers that have a topic for this one, or may have.
func (tk *take) whoMayHave(name string) (servers []string) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	for id, g := range tk.givers {
		if g.mayHave(name) {
			servers = append(servers, id)
		}
	}
	slices.Sort(servers)
	return servers
}

// to returns the server that a topic was sealed for and has not confirmed it, and the offset at which it was sealed.
func (gv *give) to(name string) (server string, offset uint64) {
	gv.mu.Lock()
	defer gv.mu.Unlock()
	if g := gv.given[name]; g != nil {
		return g.to.id, g.state.Position.GetOffset()
	}
	return "", 0
}
