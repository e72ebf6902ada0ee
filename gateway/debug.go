package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ringcast/ringcast/gateway/router"
)

// debugTimeout bounds the wait for event loops.
const debugTimeout = 2 * time.Second

// maxListed is the most subscribers that /debug/topic lists.
const maxListed = 10_000

// serveTopic is the admin page /debug/topic?name=T: what this gateway knows of a topic. With offset=N (and epoch=E, in
// base 36 as in positions; binary=true for a binary message; limit=N subscribers to list) it also tells what became of
// that message at each subscriber.
func (g *Gateway) serveTopic(w http.ResponseWriter, req *http.Request) {
	q, explain, err := parseQuestion(req.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(req.Context(), debugTimeout)
	defer cancel()
	var page struct {
		Gateway string `json:"gateway"`
		*router.TopicView
		Explain *router.Explanation `json:"explain,omitempty"`
	}
	page.Gateway = g.cfg.ID
	if page.TopicView, err = g.router.Inspect(ctx, q.Topic); err == nil && explain {
		page.Explain, err = g.router.Explain(ctx, q)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(&page)
}

// parseQuestion reads the query of /debug/topic.
func parseQuestion(v url.Values) (q router.Question, explain bool, err error) {
	q = router.Question{Topic: v.Get("name"), Limit: 100}
	if q.Topic == "" {
		return q, false, fmt.Errorf("want name=TOPIC, and offset=NUMBER to explain a message")
	}
	number := func(key string, base int, set func(uint64)) {
		if text := v.Get(key); text != "" && err == nil {
			n, bad := strconv.ParseUint(text, base, 64)
			if bad != nil {
				err = fmt.Errorf("%s=%q: want a number in base %d", key, text, base)
				return
			}
			set(n)
		}
	}
	number("offset", 10, func(n uint64) { q.Position.Offset, explain = n, true })
	number("epoch", 36, func(n uint64) { q.Position.Epoch = n })
	number("limit", 10, func(n uint64) { q.Limit = int(min(n, maxListed)) })
	if text := v.Get("binary"); text != "" && err == nil {
		if q.Binary, err = strconv.ParseBool(text); err != nil {
			err = fmt.Errorf("binary=%q: want true or false", text)
		}
	}
	if err == nil && explain && q.Position.Offset == 0 {
		err = fmt.Errorf("offset=0: the first message of an epoch has offset 1")
	}
	return q, explain, err
}
