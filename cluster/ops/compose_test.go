package ops

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/ringcast/ringcast/shared/certs"
	"github.com/ringcast/ringcast/shared/ring"
)

// composeService is a service of docker-compose.yml. A field that is not here fails the decoding.
type composeService struct {
	Image           string            `json:"image"`
	Profiles        []string          `json:"profiles"`
	Build           composeBuild      `json:"build"`
	Environment     map[string]string `json:"environment"`
	Ports           []string          `json:"ports"`
	Volumes         []string          `json:"volumes"`
	Restart         string            `json:"restart"`
	StopGracePeriod string            `json:"stop_grace_period"`
	User            string            `json:"user"`
	ReadOnly        bool              `json:"read_only"`
	CapDrop         []string          `json:"cap_drop"`
	SecurityOpt     []string          `json:"security_opt"`
	PidsLimit       int               `json:"pids_limit"`
	MemLimit        string            `json:"mem_limit"`
	CPUs            string            `json:"cpus"`
	Healthcheck     struct {
		Test        []string `json:"test"`
		Interval    string   `json:"interval"`
		Timeout     string   `json:"timeout"`
		StartPeriod string   `json:"start_period"`
		Retries     int      `json:"retries"`
	} `json:"healthcheck"`
}

type composeBuild struct {
	Context string            `json:"context"`
	Target  string            `json:"target"`
	Args    map[string]string `json:"args"`
}

func readCompose(t *testing.T) map[string]composeService {
	t.Helper()
	var whole struct {
		Services map[string]any `json:"services"`
	}
	if err := yaml.Unmarshal(read(t, "docker-compose.yml"), &whole); err != nil {
		t.Fatal(err)
	}
	services := map[string]composeService{}
	for name, any := range whole.Services {
		text, err := yaml.Marshal(any)
		if err != nil {
			t.Fatal(err)
		}
		var s composeService
		if err := yaml.UnmarshalStrict(text, &s); err != nil {
			t.Errorf("service %s: %v", name, err)
		}
		services[name] = s
	}
	return services
}

func TestComposeServices(t *testing.T) {
	t.Parallel()
	dockerfile := string(read(t, "Dockerfile"))
	services := readCompose(t)
	for name, s := range services {
		if !strings.Contains(dockerfile, "FROM scratch AS "+s.Build.Target+"\n") ||
			!strings.Contains(dockerfile, `ENTRYPOINT ["/`+s.Build.Target+`"]`) || s.Image != "ringcast/"+s.Build.Target {
			t.Errorf("%s: image %s, target %s", name, s.Image, s.Build.Target)
		}
		for arg := range s.Build.Args {
			if !strings.Contains(dockerfile, "ARG "+arg+"=\n") {
				t.Errorf("%s: the Dockerfile has no ARG %s", name, arg)
			}
		}
		if s.User != "65532:65532" || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) ||
			!slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) || s.PidsLimit == 0 {
			t.Errorf("%s is not confined: %+v", name, s)
		}
		if !slices.Equal(s.Volumes, []string{"${RING_DIR:-./scripts/compose/ring}:/etc/ringcast:ro"}) {
			t.Errorf("%s: volumes %q", name, s.Volumes)
		}
		if slices.Contains(s.Profiles, "tools") {
			continue
		}
		checkEnvironment(t, name, s.Build.Target, s.Environment)
		if path.Dir(s.Environment["RING_FILE"]) != "/etc/ringcast" || s.Environment["ADMIN_ADDR"] == "" {
			t.Errorf("%s: environment %v", name, s.Environment)
		}
		if want := []string{"CMD", "/" + s.Build.Target, "--probe"}; !slices.Equal(s.Healthcheck.Test, want) {
			t.Errorf("%s: health check %q, want %q", name, s.Healthcheck.Test, want)
		}
		if s.Restart != "unless-stopped" || s.CPUs == "" {
			t.Errorf("%s: restart %q, cpus %q", name, s.Restart, s.CPUs)
		}
		grace, err := time.ParseDuration(s.StopGracePeriod)
		if err != nil {
			t.Errorf("%s: stop_grace_period: %v", name, err)
		}
		checkGrace(t, name, s.Build.Target, grace)
		var limit float64
		unit := map[string]float64{"m": 1 << 20, "g": 1 << 30}[s.MemLimit[max(len(s.MemLimit)-1, 0):]]
		if _, err := fmt.Sscanf(s.MemLimit, "%f", &limit); err != nil || unit == 0 {
			t.Errorf("%s: mem_limit %q: %v", name, s.MemLimit, err)
		}
		checkMemory(t, name, s.Environment["GOMEMLIMIT"], limit*unit)
		// Nothing but the clients' port leaves the network.
		for _, p := range s.Ports {
			if !regexp.MustCompile(`^\$\{BIND:-127\.0\.0\.1\}:400[123]:4000$`).MatchString(p) {
				t.Errorf("%s publishes %s", name, p)
			}
		}
	}
}

// What is started without a profile is what the ring has, and every other topic server can be added under its name.
func TestComposeRing(t *testing.T) {
	t.Parallel()
	rg, err := ring.Parse("ring.yaml", read(t, "scripts/compose/ring/ring.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	gateways := 0
	for name, s := range readCompose(t) {
		server, inRing := rg.Server(name)
		switch s.Build.Target {
		case "topicserver":
			if s.Environment["TOPICSERVER_ID"] != name || inRing != (len(s.Profiles) == 0) || inRing && server.Addr != name+":7101" {
				t.Errorf("%s: id %s, profiles %v, in the ring: %t, %+v", name, s.Environment["TOPICSERVER_ID"], s.Profiles, inRing, server)
			}
		case "gateway":
			if gateways++; s.Environment["GATEWAY_ID"] != name || len(s.Ports) != 1 {
				t.Errorf("%s: id %s, ports %v", name, s.Environment["GATEWAY_ID"], s.Ports)
			}
		}
	}
	if gateways != 3 || len(rg.Servers()) != 2 {
		t.Errorf("%d gateways, %d servers in the ring", gateways, len(rg.Servers()))
	}
}

// Plain text between the containers is what the file says openly; the services would not start otherwise.
func TestComposeSaysThatLinksAreInPlainText(t *testing.T) {
	t.Parallel()
	rg, err := ring.Load(filepath.Join("..", "..", "scripts", "compose", "ring", "ring.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if (&certs.Links{}).CheckRing(rg) == nil {
		t.Error("the ring looks like one of a single host")
	}
	for name, s := range readCompose(t) {
		if want := map[bool]string{true: "", false: "true"}[slices.Contains(s.Profiles, "tools")]; s.Environment["INSECURE_LINKS"] != want {
			t.Errorf("%s: INSECURE_LINKS=%q, want %q", name, s.Environment["INSECURE_LINKS"], want)
		}
	}
}
