package ops

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/ringcast/ringcast/gateway"
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/ring"
	"github.com/ringcast/ringcast/topicserver"
)

// manifests is all that scripts/kubernetes has, by kind and name.
type manifests struct {
	configMaps      map[string]*core.ConfigMap
	services        map[string]*core.Service
	deployments     map[string]*apps.Deployment
	statefulSets    map[string]*apps.StatefulSet
	budgets         map[string]*policy.PodDisruptionBudget
	networkPolicies map[string]*networking.NetworkPolicy
}

// readManifests decodes every document strictly: an unknown field or kind fails.
func readManifests(t *testing.T) *manifests {
	t.Helper()
	files, err := filepath.Glob("../../scripts/kubernetes/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	m := &manifests{
		map[string]*core.ConfigMap{}, map[string]*core.Service{}, map[string]*apps.Deployment{}, map[string]*apps.StatefulSet{},
		map[string]*policy.PodDisruptionBudget{}, map[string]*networking.NetworkPolicy{},
	}
	for _, file := range files {
		i := 0
		for doc := range bytes.SplitSeq(read(t, "scripts/kubernetes/"+filepath.Base(file)), []byte("\n---\n")) {
			i++
			if err := m.add(doc); err != nil {
				t.Errorf("%s, document %d: %v", file, i, err)
			}
		}
	}
	return m
}

func (m *manifests) add(doc []byte) error {
	var kind meta.TypeMeta
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		return err
	}
	switch kind.APIVersion + " " + kind.Kind {
	case "v1 ConfigMap":
		return decode(doc, m.configMaps)
	case "v1 Service":
		return decode(doc, m.services)
	case "apps/v1 Deployment":
		return decode(doc, m.deployments)
	case "apps/v1 StatefulSet":
		return decode(doc, m.statefulSets)
	case "policy/v1 PodDisruptionBudget":
		return decode(doc, m.budgets)
	case "networking.k8s.io/v1 NetworkPolicy":
		return decode(doc, m.networkPolicies)
	}
	return fmt.Errorf("unknown kind %s %s", kind.APIVersion, kind.Kind)
}

func decode[T any](doc []byte, into map[string]*T) error {
	object := new(T)
	if err := yaml.UnmarshalStrict(doc, object); err != nil {
		return err
	}
	name := any(object).(meta.Object).GetName()
	if name == "" || into[name] != nil {
		return fmt.Errorf("no name, or one that is there already: %q", name)
	}
	into[name] = object
	return nil
}

// workload is what Deployments and StatefulSets have in common.
type workload struct {
	name     string
	selector *meta.LabelSelector
	pod      core.PodTemplateSpec
}

func (m *manifests) workloads() map[string]workload {
	all := map[string]workload{}
	for name, d := range m.deployments {
		all[name] = workload{name, d.Spec.Selector, d.Spec.Template}
	}
	for name, s := range m.statefulSets {
		all[name] = workload{name, s.Spec.Selector, s.Spec.Template}
	}
	return all
}

// selects tells whether a selector means the pods of some workload.
func (m *manifests) selects(selector map[string]string, pods *workload) bool {
	for _, w := range m.workloads() {
		if len(selector) > 0 && labels.SelectorFromSet(selector).Matches(labels.Set(w.pod.Labels)) {
			*pods = w
			return true
		}
	}
	return false
}

func hasPort(pod core.PodSpec, port intstr.IntOrString) bool {
	return slices.ContainsFunc(pod.Containers[0].Ports, func(p core.ContainerPort) bool {
		return port.Type == intstr.String && p.Name == port.StrVal || port.Type == intstr.Int && p.ContainerPort == port.IntVal
	})
}

func TestKubernetesSelectorsAndPorts(t *testing.T) {
	t.Parallel()
	m := readManifests(t)
	if len(m.deployments) != 1 || len(m.statefulSets) != 1 {
		t.Fatalf("%d Deployments and %d StatefulSets", len(m.deployments), len(m.statefulSets))
	}
	var pods workload
	for name, w := range m.workloads() {
		if !m.selects(w.selector.MatchLabels, &pods) || pods.name != name {
			t.Errorf("%s does not select its own pods", name)
		}
		if b := m.budgets[name]; b == nil || !maps.Equal(b.Spec.Selector.MatchLabels, w.selector.MatchLabels) || b.Spec.MaxUnavailable.IntValue() != 1 {
			t.Errorf("%s: disruption budget %+v", name, b)
		}
		if got := w.pod.Annotations["prometheus.io/port"]; !hasPort(w.pod.Spec, intstr.Parse(got)) {
			t.Errorf("%s is scraped at port %q", name, got)
		}
	}
	for name, s := range m.services {
		if !m.selects(s.Spec.Selector, &pods) {
			t.Errorf("service %s selects no pods", name)
			continue
		}
		for _, p := range s.Spec.Ports {
			if !hasPort(pods.pod.Spec, p.TargetPort) {
				t.Errorf("service %s: pods have no port %s", name, p.TargetPort.String())
			}
		}
	}
	for name, p := range m.networkPolicies {
		if !m.selects(p.Spec.PodSelector.MatchLabels, &pods) {
			t.Errorf("network policy %s selects no pods", name)
			continue
		}
		for _, in := range p.Spec.Ingress {
			for _, port := range in.Ports {
				if !hasPort(pods.pod.Spec, *port.Port) {
					t.Errorf("network policy %s: pods have no port %s", name, port.Port)
				}
			}
		}
	}
	// Every pod, gateway or peer, must get through to the links.
	links := m.networkPolicies["topicserver"].Spec.Ingress[0].From[0].PodSelector.MatchLabels
	for name, w := range m.workloads() {
		if !labels.SelectorFromSet(links).Matches(labels.Set(w.pod.Labels)) {
			t.Errorf("the network policy keeps pods of %s from the links", name)
		}
	}
}

func TestKubernetesRingNamesThePods(t *testing.T) {
	t.Parallel()
	m := readManifests(t)
	rg, err := ring.Parse("ring.yaml", []byte(m.configMaps["ringcast-ring"].Data["ring.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	s := m.statefulSets["topicserver"]
	service := m.services[s.Spec.ServiceName]
	if service == nil || service.Spec.ClusterIP != "None" || !service.Spec.PublishNotReadyAddresses {
		t.Fatalf("service of the StatefulSet: %+v", service)
	}
	if want := int(*s.Spec.Replicas); len(rg.Servers()) != want {
		t.Fatalf("the ring has %d servers, there are %d pods", len(rg.Servers()), want)
	}
	for i := range rg.Servers() {
		id := fmt.Sprintf("%s-%d", s.Name, i)
		addr := fmt.Sprintf("%s.%s:%d", id, service.Name, s.Spec.Template.Spec.Containers[0].Ports[0].ContainerPort)
		if server, ok := rg.Server(id); !ok || server.Addr != addr {
			t.Errorf("pod %s: in the ring is %+v, want %s", id, server, addr)
		}
	}
}

// podValue returns what a variable has in the first pod of a workload, given those before it.
func podValue(t *testing.T, v core.EnvVar, workload string, before map[string]string) string {
	t.Helper()
	from := v.ValueFrom
	switch {
	case from == nil && strings.HasPrefix(v.Value, "$("):
		name, rest, _ := strings.Cut(v.Value[2:], ")")
		if before[name] == "" {
			t.Errorf("%s: %s is not set before it", v.Name, name)
		}
		return before[name] + rest
	case from == nil:
		return v.Value
	case from.FieldRef != nil && from.FieldRef.FieldPath == "metadata.name":
		return workload + "-0"
	case from.FieldRef != nil && from.FieldRef.FieldPath == "status.podIP":
		return "10.1.2.3"
	case from.SecretKeyRef != nil && *from.SecretKeyRef.Optional:
		return strings.Repeat("s", 44)
	}
	t.Errorf("%s: %+v", v.Name, from)
	return ""
}

func TestKubernetesPods(t *testing.T) {
	t.Parallel()
	m := readManifests(t)
	for name, w := range m.workloads() {
		spec, c := w.pod.Spec, w.pod.Spec.Containers[0]
		values := map[string]string{}
		for _, v := range c.Env {
			values[v.Name] = podValue(t, v, w.name, values)
		}
		checkEnvironment(t, name, w.name, values)
		if _, port, _ := net.SplitHostPort(values["ADMIN_ADDR"]); !hasPort(spec, intstr.Parse(port)) {
			t.Errorf("%s: ADMIN_ADDR %s is no port of the container", name, values["ADMIN_ADDR"])
		}
		for probePath, probe := range map[string]*core.Probe{"/readyz": c.ReadinessProbe, "/healthz": c.LivenessProbe} {
			if probe.HTTPGet.Path != probePath || probe.HTTPGet.Port.StrVal != "admin" {
				t.Errorf("%s: probe %+v, want %s", name, probe.HTTPGet, probePath)
			}
		}
		mount, volume := c.VolumeMounts[0], spec.Volumes[0]
		if mount.MountPath != path.Dir(values["RING_FILE"]) || mount.SubPath != "" || !mount.ReadOnly || mount.Name != volume.Name ||
			m.configMaps[volume.ConfigMap.Name] == nil || m.configMaps[volume.ConfigMap.Name].Data[path.Base(values["RING_FILE"])] == "" {
			t.Errorf("%s: the ring does not get to %s: %+v, %+v", name, values["RING_FILE"], mount, volume)
		}
		if sec := c.SecurityContext; *sec.AllowPrivilegeEscalation || !*sec.ReadOnlyRootFilesystem || !slices.Equal(sec.Capabilities.Drop, []core.Capability{"ALL"}) {
			t.Errorf("%s: %+v", name, sec)
		}
		if sec := spec.SecurityContext; !*sec.RunAsNonRoot || *sec.RunAsUser != 65532 || sec.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: %+v", name, sec)
		}
		if *spec.AutomountServiceAccountToken || *spec.EnableServiceLinks {
			t.Errorf("%s: the pod gets a token, or variables of services", name)
		}
		checkMemory(t, name, values["GOMEMLIMIT"], float64(c.Resources.Limits.Memory().Value()))
		checkGrace(t, name, w.name, time.Duration(*spec.TerminationGracePeriodSeconds)*time.Second)
	}
}

// Links between pods are encrypted, and the files for that get there.
func TestKubernetesLinksAreEncrypted(t *testing.T) {
	t.Parallel()
	for name, w := range readManifests(t).workloads() {
		spec, c := w.pod.Spec, w.pod.Spec.Containers[0]
		values := map[string]string{}
		for i, v := range c.Env {
			values[v.Name] = v.Value
			for _, earlier := range c.Env[:i] { // a value may name those before it only
				values[v.Name] = strings.ReplaceAll(values[v.Name], "$("+earlier.Name+")", "id")
			}
		}
		at := slices.IndexFunc(c.VolumeMounts, func(m core.VolumeMount) bool { return m.Name == "links" })
		volume := slices.IndexFunc(spec.Volumes, func(v core.Volume) bool { return v.Name == "links" })
		if at < 0 || volume < 0 || spec.Volumes[volume].Secret == nil {
			t.Errorf("%s has no certificates for links", name)
			continue
		}
		if mode := *spec.Volumes[volume].Secret.DefaultMode; mode != 0o440 || *spec.SecurityContext.FSGroup != 65532 {
			t.Errorf("%s: the keys have mode %o", name, mode)
		}
		file := map[string]string{"gateway": "gateway", "topicserver": "id"}[w.name]
		for variable, want := range map[string]string{"LINK_CERT_FILE": file + ".pem", "LINK_KEY_FILE": file + "-key.pem", "LINK_CA_FILE": "ca.pem"} {
			if want = path.Join(c.VolumeMounts[at].MountPath, want); values[variable] != want {
				t.Errorf("%s: %s is %s, want %s", name, variable, values[variable], want)
			}
		}
	}
}

// checkGrace wants a service to have the time to stop that it may take with its defaults, and some to spare.
func checkGrace(t *testing.T, where, service string, grace time.Duration) {
	t.Helper()
	need := daemon.Defaults[topicserver.Config]().HandoverTimeout
	if service == "gateway" {
		cfg := daemon.Defaults[gateway.Config]()
		need = cfg.Drain + 2*cfg.StopTimeout
	}
	if grace < need+2*time.Second {
		t.Errorf("%s is killed after %v, while stopping may take %v", where, grace, need)
	}
}

// checkMemory wants Go's own limit a little under the container's.
func checkMemory(t *testing.T, name, goLimit string, limit float64) {
	t.Helper()
	var mib float64
	if _, err := fmt.Sscanf(goLimit, "%fMiB", &mib); err != nil {
		t.Errorf("%s: GOMEMLIMIT=%q: %v", name, goLimit, err)
	}
	if part := mib * (1 << 20) / limit; part < 0.8 || part > 0.95 {
		t.Errorf("%s: GOMEMLIMIT is %.2f of the memory limit", name, part)
	}
}

// checkEnvironment wants every variable to be one of the service's or of Go's, and the service to accept the values.
func checkEnvironment(t *testing.T, where, service string, values map[string]string) {
	t.Helper()
	var cfg interface{ Validate() error }
	switch service {
	case "gateway":
		cfg = new(gateway.Config)
	case "topicserver":
		cfg = new(topicserver.Config)
	default:
		t.Fatalf("%s: no service %s", where, service)
	}
	params, err := env.GetFieldParams(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for name := range values {
		known := slices.ContainsFunc(params, func(p env.FieldParams) bool { return p.Key == name })
		if !known && name != "GOMEMLIMIT" && name != "POD_IP" {
			t.Errorf("%s: %s has no variable %s", where, service, name)
		}
	}
	if err := env.ParseWithOptions(cfg, env.Options{Environment: values}); err != nil {
		t.Errorf("%s: %v", where, err)
	} else if err := cfg.Validate(); err != nil {
		t.Errorf("%s: %v", where, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}
