package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ringcast/ringcast/shared/certs"
)

// names is an option that may be given more than once, or with commas.
type names []string

// String implements flag.Value.
func (n *names) String() string { return strings.Join(*n, ",") }

// Set implements flag.Value.
func (n *names) Set(text string) error {
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name == "" || strings.ContainsAny(name, "/\\ ") || strings.HasPrefix(name, ".") {
			return fmt.Errorf("%q is no name", text)
		}
		*n = append(*n, name)
	}
	return nil
}

func runCerts(_ context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("certs", flag.ContinueOnError)
	var ids, gateways, hosts names
	fs.Var(&ids, "id", "id of a topic server; may be given more than once")
	fs.Var(&gateways, "gateway", "id of a gateway; one certificate for all of them by default")
	fs.Var(&hosts, "host", "host name or IP address that clients come to by wss")
	days := fs.Int("days", 365, "how long the certificates count")
	if err := parse(fs, out, optionsFirst(fs, args), 1, 1, "DIR [-id ID]… [-gateway ID]… [-host NAME]…"); err != nil {
		return err
	}
	if *days < 1 || *days > 3650 {
		return fmt.Errorf("%w: -days %d: want 1 to 3650", errUsage, *days)
	}
	dir := fs.Arg(0)
	a, err := certs.OpenAuthority(dir)
	if err != nil {
		return err
	}
	until := time.Now().AddDate(0, 0, *days)
	fmt.Fprintf(out, "%s/ca.pem\tLINK_CA_FILE of every process\n", dir)
	made := map[string]bool{"ca": true}
	issue := func(name, variables string, r certs.Request) error {
		if made[name] || made[name+"-key"] {
			return fmt.Errorf("two certificates would be called %s.pem", name)
		}
		made[name], made[name+"-key"], r.NotAfter = true, true, until
		if err := a.Issue(name, r); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s/%s.pem, %s/%s-key.pem\t%s\n", dir, name, dir, name, variables)
		return nil
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, issue(id, "LINK_CERT_FILE, LINK_KEY_FILE of topic server "+id, certs.Request{Server: id}))
	}
	for _, id := range gateways {
		errs = append(errs, issue(id, "LINK_CERT_FILE, LINK_KEY_FILE of gateway "+id, certs.Request{Gateway: id}))
	}
	if len(gateways) == 0 {
		errs = append(errs, issue("gateway", "LINK_CERT_FILE, LINK_KEY_FILE of gateways", certs.Request{Gateway: certs.AnyGateway}))
	}
	if len(hosts) > 0 {
		errs = append(errs, issue("wss", "TLS_CERT_FILE, TLS_KEY_FILE of gateways; for tests: browsers do not know this authority", certs.Request{Hosts: hosts}))
	}
	return errors.Join(errs...)
}
