package session

import (
	"encoding/json"

	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

// OpenRealtime is Open for a client of @supabase/realtime-js, which speaks PhoenixV1 or Realtime.
func (ss *Sessions) OpenRealtime(conn *socket.Conn, kind codec.Kind, id *auth.Identity) *Session {
	s := ss.Open(conn, kind, id)
	s.realtime = true
	return s
}

// broadcastConfig reads what a join of realtime-js says of broadcasts: whether the channel wants its own, and answers to
// them. Unless it says so, it wants neither.
func broadcastConfig(params []byte) (noEcho, noAck bool) {
	var p struct {
		Config struct {
			Broadcast struct {
				Self bool `json:"self"`
				Ack  bool `json:"ack"`
			} `json:"broadcast"`
		} `json:"config"`
	}
	_ = json.Unmarshal(params, &p) // what is not of the right type is not set
	return !p.Config.Broadcast.Self, !p.Config.Broadcast.Ack
}
