package cluster_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/gateway"
)

const openapiFile = "../docs/openapi.yaml"

func loadOpenAPI(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile(openapiFile)
	if err != nil {
		t.Fatal(err)
	}
	// Examples are validated with their schemas.
	if err := doc.Validate(t.Context(), openapi3.EnableExamplesValidation()); err != nil {
		t.Fatal(err)
	}
	return doc
}

// Every route is in the file, and nothing else is.
func TestOpenAPI_TheFileHasTheRoutesThatThereAre(t *testing.T) {
	t.Parallel()
	var described []string
	for path, item := range loadOpenAPI(t).Paths.Map() {
		for method := range item.Operations() {
			described = append(described, method+" "+path)
		}
	}
	c := start(t)
	var served []string
	param := regexp.MustCompile(`:([a-z]+)`)
	for _, route := range c.Gateways[0].APIRoutes() {
		served = append(served, param.ReplaceAllString(route, "{$1}"))
	}
	slices.Sort(described)
	slices.Sort(served)
	if len(served) == 0 || !slices.Equal(described, served) {
		t.Errorf("described\n  %s\nserved\n  %s", strings.Join(described, "\n  "), strings.Join(served, "\n  "))
	}
}

// described is an HTTP client that holds each request and each answer against the file.
type described struct {
	t      *testing.T
	url    string
	router routers.Router
}

func describe(t *testing.T, gateway string) *described {
	t.Helper()
	doc := loadOpenAPI(t)
	doc.Servers = openapi3.Servers{{URL: "http://" + gateway}}
	router, err := legacy.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &described{t, "http://" + gateway, router}
}

// do sends a request and returns the answer. A request that is meant to be refused need not be one that the file allows.
func (d *described) do(method, path, body string, status int, header ...string) map[string]any {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	route, params, err := d.router.FindRoute(req)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	input := &openapi3filter.RequestValidationInput{
		Request: req, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if err := openapi3filter.ValidateRequest(ctx, input); err != nil && status == http.StatusOK {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		d.t.Fatalf("%s %s: %d %s, %v, want %d", method, path, resp.StatusCode, answer, err, status)
	}
	output := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(answer)),
	}
	if err := openapi3filter.ValidateResponse(ctx, output); err != nil {
		d.t.Errorf("%s %s: %s\n%v", method, path, answer, err)
	}
	var fields map[string]any
	if err := json.Unmarshal(answer, &fields); err != nil {
		d.t.Fatalf("%s %s: %s: %v", method, path, answer, err)
	}
	return fields
}

func TestOpenAPI_RequestsAndAnswersAreAsDescribed(t *testing.T) {
	t.Parallel()
	c := start(t)
	d := describe(t, c.Gateways[0].Addr)
	const room = "/api/topics/room:1"
	d.do("POST", room+"/publish", `{"event":"say","payload":{"text":"hi"}}`, 200)
	d.do("POST", room+"/publish", `{"event":"file","payload":"AP8=","binary":true}`, 200)
	d.do("POST", room+"/publish", `{"event":"say"}`, 200, "Idempotency-Key: order-17")
	d.do("POST", room+"/publish", `{"event":"other"}`, 409, "Idempotency-Key: order-17")
	d.do("POST", room+"/publish", `{"event":"say","x":1}`, 400)
	d.do("POST", "/api/topics/room/publish", `{"event":"say"}`, 404)
	d.do("POST", "/api/publish", `{"messages":[{"topic":"room:1","event":"say","id":"a"},{"topic":"room:1","event":"b","id":"order-17"}]}`, 200)
	d.do("POST", "/api/publish", `{"messages":7}`, 400)
	d.do("POST", "/api/broadcast", `{"topics":["room:1","room:2"],"event":"say","payload":{}}`, 200)
	d.do("POST", "/api/revoke", `{"session":"1-1"}`, 200)
	d.do("POST", "/api/revoke", `{"user":"neo"}`, 400) // there are no users without tokens
	d.do("POST", room+"/unsubscribe", `{"session":"1-1"}`, 200)
	d.do("POST", room+"/unsubscribe", `{"session":"1-1","user":"neo"}`, 400)
	d.do("GET", room+"/count", "", 200)
	d.do("GET", room+"/subscribers?limit=3", "", 200)
	d.do("GET", "/api/topics/room/count", "", 404)
	d.do("GET", room+"/messages?limit=3", "", 200)
	d.do("GET", room+"/messages?limit=0", "", 400)
	d.do("GET", "/api/cluster", "", 200)
	d.do("GET", "/api/cluster?topic=room:1", "", 200)
}

// The file and the page tell of the same errors.
func TestOpenAPI_ErrorsAreThoseOfThePage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	described := *loadOpenAPI(t).Components.Responses["Error"].Value.Description
	rows := regexp.MustCompile("(?m)^\\| ([45][0-9]{2}) \\| (`[^|]+`) \\|").FindAllStringSubmatch(string(page), -1)
	if len(rows) < 10 {
		t.Fatalf("%d rows of errors", len(rows))
	}
	words := 0
	for _, row := range rows {
		if !strings.Contains(described, row[1]+" ") {
			t.Errorf("the file does not tell of %s", row[1])
		}
		for word := range strings.SplitSeq(row[2], ", ") {
			words++
			if word = strings.Trim(word, "`"); !regexp.MustCompile(`\b` + word + `\b`).MatchString(described) {
				t.Errorf("the file does not tell of %s %s", row[1], word)
			}
		}
	}
	if statuses := regexp.MustCompile(`\b[45][0-9]{2}\b`).FindAllString(described, -1); len(statuses) != len(rows) {
		t.Errorf("the file has %v, the page %d rows", statuses, len(rows))
	}
}

func TestOpenAPI_RefusalsAreAsDescribed(t *testing.T) {
	t.Parallel()
	const publish, content = "/api/topics/room:1/publish", `{"event":"say"}`
	sum := sha256.Sum256([]byte("shop-key"))
	c := start(t, func(cfg *cluster.Config) {
		cfg.Gateways = 2
		cfg.Gateway = func(cfg *gateway.Config) {
			quick(cfg)
			if cfg.APIOpen = cfg.ID == "gw-b"; cfg.APIOpen {
				cfg.Limits.AdmissionLag = 1 // nanosecond: always late
				return
			}
			cfg.APIKeys, cfg.APIRate = "shop:publish:"+hex.EncodeToString(sum[:]), 1
		}
	})
	keyed := describe(t, c.Gateways[0].Addr)
	keyed.do("POST", publish, content, 401)
	keyed.do("POST", "/api/revoke", `{"session":"1-1"}`, 403, "Authorization: Bearer shop-key")
	// A batch goes through whole: the key owes the better part of two minutes then.
	batch := `{"messages":[` + strings.Repeat(`{"topic":"room:1","event":"say"},`, 99) + `{"topic":"room:1","event":"say"}]}`
	keyed.do("POST", "/api/publish", batch, 200, "Authorization: Bearer shop-key")
	if got := keyed.do("POST", publish, content, 429, "Authorization: Bearer shop-key"); got["error"] != "rate_limited" || got["retry_after_ms"] == nil {
		t.Errorf("over the rate: %v", got)
	}
	overloaded := describe(t, c.Gateways[1].Addr)
	eventually(t, "the gateway is overloaded", func() bool {
		resp, err := http.Post(overloaded.url+publish, "application/json", strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body)
		return bytes.Contains(answer, []byte("overloaded"))
	})
	if got := overloaded.do("POST", publish, content, 503); got["error"] != "overloaded" || got["retry_after_ms"] == nil {
		t.Errorf("overloaded: %v", got)
	}
}
