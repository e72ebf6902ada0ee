package cluster_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringcast/ringcast/shared/certs"
)

const goodAuth = "AUTH_ISSUER=tests"

func TestRow36_SecretsOfNoUseAreExitCode2AndNotShown(t *testing.T) {
	t.Parallel()
	ring := writeFile(t, "ring.yaml", goodRing)
	good, open := writeFile(t, "secret", tokenSecret), writeFile(t, "open", tokenSecret)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	const short = "hunter2hunter2"
	base := []string{"GATEWAY_ADDR=127.0.0.1:0", "RING_FILE=" + ring, "AUTH_ISSUER=tests", "AUTH_AUDIENCE=ringcast"}
	for _, test := range []struct {
		env  []string
		line string
	}{
		{[]string{"AUTH_HMAC_SECRET=" + short}, "AUTH_HMAC_SECRET: want a secret of at least 32 bytes"},
		{[]string{"AUTH_HMAC_SECRET_FILE=" + writeFile(t, "short", short)}, "AUTH_HMAC_SECRET_FILE: want a secret of at least 32 bytes"},
		{[]string{"AUTH_HMAC_SECRET_FILE=" + open}, `AUTH_HMAC_SECRET_FILE="` + open + `": mode 0644 lets others read it: chmod 0600`},
		{[]string{"AUTH_HMAC_SECRET=" + tokenSecret, "AUTH_HMAC_SECRET_FILE=" + good}, "AUTH_HMAC_SECRET and AUTH_HMAC_SECRET_FILE are both set: want one of them"},
		{[]string{"AUTH_REQUIRED=true", "ALLOWED_ORIGINS=https://app.example"}, "AUTH_REQUIRED=true: no key is configured: set AUTH_HMAC_SECRET_FILE, AUTH_KEYS_FILE or AUTH_JWKS_URL"},
		{[]string{"AUTH_REQUIRED=true", "AUTH_HMAC_SECRET_FILE=" + good}, "ALLOWED_ORIGINS is required: with AUTH_REQUIRED any origin is allowed only by INSECURE_ANY_ORIGIN=true"},
	} {
		p := spawn(t, "gateway", append(test.env, base...))
		p.exits(2)
		said := p.stdout.String() + p.stderr.String()
		if !strings.Contains(said, "\n"+test.line+"\n") && !strings.HasPrefix(said, test.line+"\n") {
			t.Errorf("%v: says %s\nwant %s", test.env[0], said, test.line)
		}
		for _, secret := range []string{short, tokenSecret} {
			if strings.Contains(said, secret) {
				t.Errorf("%v: shows the secret: %s", test.env[0], said)
			}
		}
	}
}

func TestRow37_CertificatesOfNoUseAreExitCode2(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	ring := writeFile(t, "ring.yaml", goodRing)
	past := time.Now().Add(-time.Hour).Truncate(time.Second)
	a.issue("ended", certs.Request{Hosts: []string{"localhost"}, NotBefore: past.Add(-time.Hour), NotAfter: past})
	gateway := []string{"GATEWAY_ADDR=127.0.0.1:0", "RING_FILE=" + ring}
	refuses(t, "gateway", append(gateway, "TLS_CERT_FILE="+a.file("wss.pem"), "TLS_KEY_FILE="+a.file("gateway-key.pem")),
		fmt.Sprintf("TLS_CERT_FILE=%q: no pair with TLS_KEY_FILE=%q: tls: private key does not match public key", a.file("wss.pem"), a.file("gateway-key.pem")))
	refuses(t, "gateway", append(gateway, "TLS_CERT_FILE="+a.file("ended.pem"), "TLS_KEY_FILE="+a.file("ended-key.pem")),
		fmt.Sprintf("TLS_CERT_FILE=%q: the certificate ended at %s", a.file("ended.pem"), past.UTC().Format(time.RFC3339)))
	refuses(t, "gateway", append(gateway, "TLS_CERT_FILE="+a.file("wss.pem")), "TLS_CERT_FILE and TLS_KEY_FILE belong together: only one is set")
	refuses(t, "topicserver", []string{"TOPICSERVER_ID=ts-a", "TOPICSERVER_ADDR=127.0.0.1:0", "RING_FILE=" + ring, "LINK_CERT_FILE=" + a.file("ts-a.pem")},
		"LINK_KEY_FILE is required: links need certificate, key and authority", "LINK_CA_FILE is required: links need certificate, key and authority")
	far := writeFile(t, "far.yaml", "version: 1\nservers:\n  - id: ts-a\n    addr: 10.0.0.1:7101\n")
	line := `LINK_CERT_FILE, LINK_KEY_FILE and LINK_CA_FILE are required: topic server "ts-a" is at 10.0.0.1:7101, on another host as it seems (INSECURE_LINKS=true allows plain text)`
	refuses(t, "gateway", []string{"GATEWAY_ADDR=127.0.0.1:0", "RING_FILE=" + far}, line)
	refuses(t, "topicserver", []string{"TOPICSERVER_ID=ts-a", "TOPICSERVER_ADDR=127.0.0.1:0", "RING_FILE=" + far}, line)
}

// provoke sends requests with tokens that are good, bad, expired and too much to a gateway, over plain HTTP.
func provoke(t *testing.T, g *gatewayProc, tokens []string) {
	t.Helper()
	for _, token := range tokens {
		for _, request := range []string{
			"GET /socket/websocket?vsn=2.0.0&token=" + token + " HTTP/1.1\r\nHost: x\r\n",
			"GET /socket/websocket?vsn=9&token=" + token + " HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
			"GET /api/cluster HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n",
			"GET /nowhere?token=" + token + " HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: base64url.bearer.phx." + token + "\r\n",
			"GET /socket/websocket?token=" + token + " HTTP/1.1\r\nHost x\x00 " + token + "\r\n", // no header
			"GET /socket/websocket?token=" + token + " HTTP/1.1\r\nX: " + strings.Repeat("x", 5000) + "\r\n",
			"POST /api/topics/room:1/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nAuthorization: Bearer " + token + "\r\n\r\n{}}",
		} {
			conn, err := net.Dial("tcp", g.addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, _ = conn.Write([]byte(request + "Connection: close\r\n\r\n"))
			_, _ = conn.Read(make([]byte, 4096))
			conn.Close()
		}
	}
}

// More secrets than those of tokens.
const (
	brokerPassword = "s3cr3t-of-the-broker"
	pollSecret     = "s3cr3t-of-the-long-polls-0123456789"
	ringSalt       = "s3cr3t-of-the-ring-0123456789abcdef"
	apiHash        = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// Neither a secret nor a token is in anything that the services print, with all that can be logged logged, whatever is done
// to them, even as they die of a signal that makes Go print all its stacks; nor in what their operators' pages say.
func TestSecretsAreNeverPrinted(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	s := newSite(t)
	unsalted := s.ringFile // the gateway's, which has to learn the salt from the topic servers
	s.ringFile = writeFile(t, "salted.yaml", "force: true\nhash_salt: "+ringSalt+"\n"+s.ringText(2))
	links := func(name string) []string {
		return []string{"LINK_CERT_FILE=" + a.file(name+".pem"), "LINK_KEY_FILE=" + a.file(name+"-key.pem"), "LINK_CA_FILE=" + a.file("ca.pem"), "LOG_LEVEL=debug"}
	}
	var procs []*proc
	var admins []string
	for _, id := range []string{"ts-a", "ts-b"} {
		server, _ := s.ring.Server(id)
		admin := freeAddr(t)
		p := spawn(t, "topicserver", append(links(id), "TOPICSERVER_ID="+id, "TOPICSERVER_ADDR="+server.Addr, "RING_FILE="+s.ringFile, "ADMIN_ADDR="+admin))
		p.prints("serving topics")
		procs, admins = append(procs, p), append(admins, admin)
	}
	s.ringFile = unsalted
	g := s.gateway(append(links("gateway"), "AUTH_HMAC_SECRET="+tokenSecret, "AUTH_AUDIENCE=ringcast", goodAuth, "AMQP_QUEUE=q",
		"AMQP_URL=amqp://user:"+brokerPassword+"@127.0.0.1:1/", "LONGPOLL_SECRET="+pollSecret, "API_KEYS=shop:publish:"+apiHash)...)
	g.ready()
	g.prints("no connection to the message broker")
	s.uses(2, g.admin)
	check := spawn(t, "gateway", g.env, "--check-config")
	check.exits(0)
	procs, admins = append(procs, g.proc), append(admins, g.admin)

	good := tokenFor("neo", time.Hour, []string{"room:*"})
	tokens := []string{
		good, good[:len(good)-4] + "AAAA", tokenFor("expired-one", -time.Hour, nil), tokenFor("wrong-aud", time.Hour, nil, "aud", "other"),
		"s3cr3t-that-is-no-token", "a.b.s3cr3t-signature",
	}
	provoke(t, g, tokens)
	client := dial(t, "neo", g.webSocketURL()+"&token="+good)
	client.join("room:1")
	for i, token := range tokens[1:3] {
		client.say(fmt.Sprintf(`["9","9","room:%d","phx_join",{"token":%q}]`, i, token))
		client.hear()
	}
	client.say(fmt.Sprintf(`["1","9","room:1","access_token",{"access_token":%q}]`, good))
	client.expect(`["1","9","room:1","phx_reply",{"response":{},"status":"ok"}]`)
	client.say(`{"bad frame":"` + good + `"}`)
	_ = stranger(g.addr, "\x16\x03\x01"+good)

	secrets := append([]string{tokenSecret, brokerPassword, pollSecret, ringSalt, apiHash}, tokens...)
	keys, err := filepath.Glob(a.file("*-key.pem"))
	if err != nil || len(keys) < 4 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	for _, path := range keys {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, strings.Split(string(text), "\n")[1])
	}
	said := check.stdout.String() + check.stderr.String()
	for _, admin := range admins {
		for _, page := range []string{"/metrics", "/readyz", "/ring", "/status", "/debug/topic?topic=room:1", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2"} {
			if status, body := fetch(admin, page); status == http.StatusOK {
				said += body
			}
		}
	}
	if !strings.Contains(said, "ringcast_gateway_tokens_refused_total{reason=\"expired\"} ") {
		t.Error("the metrics do not tell of refused tokens")
	}
	for _, p := range procs {
		p.signal(syscall.SIGQUIT)
		<-p.ended
		said += p.stdout.String() + p.stderr.String()
		if !strings.Contains(p.stderr.String(), "goroutine ") {
			t.Errorf("%s printed no stacks", p.name)
		}
	}
	for _, secret := range secrets {
		if i := strings.Index(said, secret); i >= 0 {
			t.Errorf("a secret is printed: …%.300s", said[max(0, i-100):])
		}
	}
	if !strings.Contains(said, "token refused") {
		t.Error("the log does not tell of refused tokens: it is not at work")
	}
}
