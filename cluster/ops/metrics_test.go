package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metricsql"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"sigs.k8s.io/yaml"

	"github.com/ringcast/ringcast/cluster"
)

// read returns a file of the project by its path from the top.
func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", path))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// series knows the labels of each metric and their values. Those that Prometheus adds have any value: nil.
type series map[string]map[string][]string

// realSeries returns what a running cluster exposes.
func realSeries(t *testing.T) series {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	process := prometheus.NewRegistry()
	process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	found := series{"up": {"job": nil, "instance": nil}}
	for _, registry := range []*prometheus.Registry{c.Gateways[0].Metrics, c.TopicServers[0].Metrics, process} {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			labels := map[string][]string{"job": nil, "instance": nil}
			for _, metric := range family.GetMetric() {
				for _, pair := range metric.GetLabel() {
					labels[pair.GetName()] = append(labels[pair.GetName()], pair.GetValue())
				}
			}
			found[family.GetName()] = labels
			if family.GetType() == dto.MetricType_HISTOGRAM {
				found[family.GetName()] = nil // has no series of its own name
				found[family.GetName()+"_count"], found[family.GetName()+"_sum"] = labels, labels
				buckets := maps.Clone(labels)
				buckets["le"] = nil
				found[family.GetName()+"_bucket"] = buckets
			}
		}
	}
	return found
}

// check tells what is wrong with a PromQL expression: its syntax, metrics and label values that do not exist, counters
// that are not looked at over time, and gauges that are.
func (s series) check(expr string) error {
	parsed, err := metricsql.Parse(expr)
	if err != nil {
		return fmt.Errorf("%s: %w", expr, err)
	}
	var problems []error
	overTime := map[metricsql.Expr]string{} // arguments of rate and the like
	metrics := 0
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		if f, ok := e.(*metricsql.FuncExpr); ok && slices.Contains([]string{"rate", "irate", "increase"}, f.Name) {
			for _, arg := range f.Args {
				if rollup, ok := arg.(*metricsql.RollupExpr); ok {
					arg = rollup.Expr
				}
				overTime[arg] = f.Name
			}
		}
	})
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		m, ok := e.(*metricsql.MetricExpr)
		if !ok {
			return
		}
		metrics++
		for _, filters := range m.LabelFilterss {
			problems = append(problems, s.checkFilters(filters, overTime[e]))
		}
	})
	if metrics == 0 {
		problems = append(problems, errors.New("names no metric"))
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("%s: %w", expr, err)
	}
	return nil
}

func (s series) checkFilters(filters []metricsql.LabelFilter, rate string) error {
	if len(filters) == 0 || filters[0].Label != "__name__" {
		return errors.New("a selector without a name")
	}
	name := filters[0].Value
	labels, ok := s[name]
	if !ok || labels == nil {
		return fmt.Errorf("no node has a metric %s", name)
	}
	if counter := s.counter(name); counter != (rate != "") {
		return fmt.Errorf("%s: a counter is for rate and increase, and nothing else is", name)
	}
	for _, f := range filters[1:] {
		values, ok := labels[f.Label]
		if !ok {
			return fmt.Errorf("%s has no label %s", name, f.Label)
		}
		for _, want := range strings.Split(f.Value, "|") {
			if values != nil && !slices.Contains(values, want) {
				return fmt.Errorf("%s has no %s %q, only %q", name, f.Label, want, values)
			}
		}
	}
	return nil
}

// counter reports whether a series only grows.
func (s series) counter(name string) bool {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if histogram, ok := strings.CutSuffix(name, suffix); ok {
			if labels, ok := s[histogram]; ok && labels == nil {
				return true
			}
		}
	}
	return strings.HasSuffix(name, "_total")
}

func TestSeriesFindsMistakes(t *testing.T) {
	s := series{
		"a_total": {"instance": nil, "reason": {"slow", "idle"}}, "b": {"instance": nil},
		"h": nil, "h_bucket": {"instance": nil, "le": nil}, "h_count": {"instance": nil},
	}
	for expr, want := range map[string]string{
		`rate(a_total[5m])`: "",
		`sum by (reason) (rate(a_total{reason="slow"}[5m]))`:     "",
		`increase(a_total{reason=~"slow|idle"}[5m]) > b`:         "",
		`rate(a_total{instance=~"$instance"}[$__rate_interval])`: "",
		`b < scalar(max(b))`:               "",
		`rate(a_total{reason="slw"}[5m])`:  `no reason "slw"`,
		`rate(a_total{raeson="slow"}[5m])`: "no label raeson",
		`rate(c_total[5m]) + b`:            "no node has a metric c_total",
		`a_total`:                          "a counter is for rate",
		`rate(b[5m])`:                      "a counter is for rate",
		`sum(rate(a_total[5m])`:            "parse",
		`histogram_quantile(0.9, sum by (le) (rate(h_bucket[5m])))`: "",
		`h`:                                   "no node has a metric h",
		`h_bucket`:                            "a counter is for rate",
		`1 + 1`:                               "names no metric",
		`count({instance="x"})`:               "a selector without a name",
		`b or on(instance) rate(d_total[1m])`: "no node has a metric d_total",
	} {
		err := s.check(expr)
		if got := fmt.Sprint(err); !strings.Contains(got, want) || (err == nil) != (want == "") {
			t.Errorf("%s: %v, want %q", expr, err, want)
		}
	}
}

// rules is an alert file as Prometheus reads it.
type rules struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	} `json:"groups"`
}

type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func readAlerts(t *testing.T) (all []rule) {
	t.Helper()
	var file rules
	if err := yaml.UnmarshalStrict(read(t, "scripts/grafana/alerts.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("no alert rules")
	}
	return all
}

func TestAlertRules(t *testing.T) {
	t.Parallel()
	known := realSeries(t)
	seen := map[string]bool{}
	for _, r := range readAlerts(t) {
		if !regexp.MustCompile(`^Ringcast[A-Za-z]+$`).MatchString(r.Alert) || seen[r.Alert] {
			t.Errorf("alert %q: the name is odd, or there twice", r.Alert)
		}
		seen[r.Alert] = true
		if err := known.check(r.Expr); err != nil {
			t.Errorf("%s: %v", r.Alert, err)
		}
		if _, err := time.ParseDuration(r.For); r.For != "" && err != nil {
			t.Errorf("%s: for: %v", r.Alert, err)
		}
		if !slices.Contains([]string{"critical", "warning"}, r.Labels["severity"]) || r.Annotations["summary"] == "" {
			t.Errorf("%s: labels %v, annotations %v", r.Alert, r.Labels, r.Annotations)
		}
		if want := "docs/operations.md#" + strings.ToLower(r.Alert); r.Annotations["runbook"] != want {
			t.Errorf("%s: runbook %s, want %s", r.Alert, r.Annotations["runbook"], want)
		}
	}
}

// dashboard is what Grafana reads, as far as it is looked at here.
type dashboard struct {
	UID        string
	Title      string
	Templating struct{ List []struct{ Name string } }
	Panels     []panel
}

type panel struct {
	ID          int
	Type, Title string
	Description string
	GridPos     struct{ H, W, X, Y int }
	FieldConfig struct{ Defaults struct{ Unit string } }
	Targets     []struct{ RefID, Expr, LegendFormat string }
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal(read(t, "scripts/grafana/ringcast.json"), &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || len(d.Panels) == 0 {
		t.Fatal("no dashboard")
	}
	return d
}

func TestDashboard(t *testing.T) {
	t.Parallel()
	known := realSeries(t)
	d := readDashboard(t)
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	ids, occupied := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s: id %d is there twice", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, taken := occupied[[2]int{x, y}]; taken || x >= 24 {
					t.Fatalf("%s overlaps %s, or the edge", p.Title, other)
				}
				occupied[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d, %q: wants a title, a description, a unit and targets", p.ID, p.Title)
		}
		for _, target := range p.Targets {
			if err := known.check(target.Expr); err != nil {
				t.Errorf("%s: %v", p.Title, err)
			}
			if target.LegendFormat == "" {
				t.Errorf("%s: %s has no legend", p.Title, target.Expr)
			}
			for _, use := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(target.Expr, -1) {
				if use[1] != "__rate_interval" && !slices.Contains(variables, use[1]) {
					t.Errorf("%s: no variable $%s", p.Title, use[1])
				}
			}
		}
	}
}

// Every metric is on the dashboard, and has a line in the operators' page; that page speaks of no others, and says of
// every alert what to do.
func TestMetricsAndAlertsAreExplained(t *testing.T) {
	t.Parallel()
	known := realSeries(t)
	page := string(read(t, "docs/operations.md"))
	dashboard := string(read(t, "scripts/grafana/ringcast.json"))
	for name := range known {
		if !strings.HasPrefix(name, "ringcast_") {
			continue
		}
		base := regexp.MustCompile(`_(?:bucket|sum|count)$`).ReplaceAllString(name, "")
		if base == name {
			base = ""
		}
		if _, ok := known[base]; ok && known[base] == nil {
			continue // explained and shown as the histogram's
		}
		shown := name
		if known[name] == nil {
			shown += "_bucket"
		}
		if !strings.Contains(page, "| `"+name+"` |") {
			t.Errorf("docs/operations.md has no line for %s", name)
		}
		if !regexp.MustCompile(`\b` + shown + `\b`).MatchString(dashboard) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
	for _, name := range regexp.MustCompile(`\bringcast_(?:gateway|topic)_\w+`).FindAllString(page, -1) {
		if _, ok := known[name]; !ok {
			t.Errorf("docs/operations.md speaks of %s, which no node has", name)
		}
	}
	headings := regexp.MustCompile(`(?m)^### (Ringcast\w+)$`).FindAllStringSubmatch(page, -1)
	var explained []string
	for _, h := range headings {
		explained = append(explained, h[1])
	}
	var alerts []string
	for _, r := range readAlerts(t) {
		alerts = append(alerts, r.Alert)
	}
	if !slices.Equal(explained, alerts) {
		t.Errorf("docs/operations.md explains\n%q, the alerts are\n%q", explained, alerts)
	}
}
