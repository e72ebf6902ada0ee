package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// probeTimeout bounds one probe. Container engines and orchestrators give theirs a second or more by default.
const probeTimeout = 2 * time.Second

// probe asks the process whose admin listener is at addr, on this machine, whether it is ready. nil means that it is; the
// error has the answer in one line. It blocks for at most timeout.
func probe(addr string, timeout time.Duration) error {
	if addr == "" {
		return ConfigError(errors.New("ADMIN_ADDR is not set: there is no admin listener to probe"))
	}
	target, err := probeTarget(addr)
	if err != nil {
		return ConfigError(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+target+"/readyz", nil)
	if err != nil {
		return ConfigError(Invalid("ADMIN_ADDR", addr, "%v", err))
	}
	// A transport of its own: no proxy, and no connection that outlives the probe.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, 1024)) // whatever has come of it helps
	text := strings.Join(strings.Fields(string(body)), " ")
	return fmt.Errorf("%s: %s", response.Status, text)
}

// probeTarget turns the address of a listener into one to dial: a listener on every interface is also on loopback.
func probeTarget(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "0" {
		return "", Invalid("ADMIN_ADDR", addr, "no address to probe: want host:port with the port it listens on")
	}
	switch ip := net.ParseIP(host); {
	case host == "", ip != nil && ip.IsUnspecified() && ip.To4() != nil:
		host = "127.0.0.1"
	case ip != nil && ip.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port), nil
}
