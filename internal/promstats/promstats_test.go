package promstats_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/histogram"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/promstats"
	"github.com/fanfare-hub/fanfare/internal/stream"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const manual = "../../docs/guide/metrics.md"

// TestManual holds the manual's table against the code; FANFARE_UPDATE_GOLDEN=1 writes it.
func TestManual(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Metrics\n\n`/metrics` serves these metrics to Prometheus, and those of the process " +
		"(`process_…`) and of Go (`go_…`). No label\n" +
		"holds a channel, a user or a client. The metrics `fanfare_log_…` need an engine that gives figures; " +
		"ours does.\n\n" +
		"| metric | kind | label | |\n|---|---|---|---|\n")
	if n := len(promstats.Metrics()); n < 40 {
		t.Errorf("only %d metrics", n)
	}
	for _, m := range promstats.Metrics() {
		label := "–"
		if m.Labels != "" {
			label = "`" + m.Labels + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Kind, label, m.Help)
	}
	b.WriteString("\n`deploy/grafana/fanfare.json` is a dashboard. " +
		"`deploy/prometheus/alerts.yaml` holds alert rules;\n" +
		"[runbook.md](runbook.md) says what to do for each alert.\n")
	if os.Getenv("FANFARE_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(manual, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(have)); diff != "" {
		t.Errorf("docs/guide/metrics.md is not what the code says; FANFARE_UPDATE_GOLDEN=1 go test "+
			"./internal/promstats writes it:\n%s", diff)
	}
}

func scrape(t *testing.T) string {
	t.Helper()
	l, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if _, err := logtest.Append(l,
		&fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("a"), Data: "12345"}}}); err != nil {
		t.Fatal(err)
	}
	var h histogram.Histogram
	h.Observe(3 * time.Millisecond)
	h.Observe(time.Minute)
	w := httptest.NewRecorder()
	promstats.Handler(promstats.Sources{
		Hub: func() hub.Stats { return hub.Stats{SlowestLag: 3} },
		Streams: func() stream.Stats {
			return stream.Stats{Delivered: 7, Open: map[string]int{"native": 2}, Opened: map[string]uint64{"native": 5},
				Ended: map[string]uint64{stream.EndGone.String(): 3}, Delivery: h.Counts()}
		},
		Publish:     h.Counts,
		Refused:     func() map[fanfare.Code]uint64 { return map[fanfare.Code]uint64{fanfare.CodeInvalid: 4} },
		Reasons:     func() map[fanfare.Reason]uint64 { return map[fanfare.Reason]uint64{fanfare.ReasonNoRight: 6} },
		Revocations: func() int { return 2 }, JWKSFailures: func() uint64 { return 1 },
		InflightBytes: func() int { return 8 }, InflightMost: 9,
		Cut:         func() map[string]uint64 { return map[string]uint64{"stalled": 10} },
		AsyncFailed: func() uint64 { return 0 },
		Commands:    func() map[string]uint64 { return map[string]uint64{"done": 0, "received": 0} },
		Stores: func() promstats.Stores {
			return promstats.Stores{SharedReaders: map[string]uint64{"same": 8}, Looks: map[string]uint64{"asked": 9}}
		}, Ready: func() bool { return true }, Log: l, Version: "v1",
	}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func TestScrape(t *testing.T) {
	text := scrape(t)
	for _, want := range []string{
		`fanfare_streams_open{adapter="native"} 2`, `fanfare_streams_ended_total{reason="gone"} 3`,
		`fanfare_requests_refused_total{code="invalid"} 4`,
		`fanfare_refusals_total{reason="no_right"} 6`, `fanfare_revocations 2`, `fanfare_jwks_failures_total 1`,
		`fanfare_publish_seconds_bucket{le="0.0025"} 0`, `fanfare_publish_seconds_bucket{le="0.005"} 1`,
		`fanfare_publish_seconds_bucket{le="10"} 1`,
		`fanfare_publish_seconds_bucket{le="+Inf"} 2`, `fanfare_publish_seconds_sum 60.003`,
		`fanfare_publish_seconds_count 2`,
		`fanfare_events_published_total 1`, `fanfare_log_fsync_seconds_count`, `fanfare_slowest_stream_lag_positions 3`,
		`fanfare_build_info{version="v1"} 1`,
		`fanfare_inflight_bytes 8`, `fanfare_inflight_max_bytes 9`, `fanfare_answers_cut_total{reason="stalled"} 10`,
		`fanfare_store_shared_total{readers="same"} 8`, `fanfare_store_looks_total{why="asked"} 9`, `go_goroutines`,
		`process_open_fds`, `fanfare_ready 1`, `fanfare_log_up 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	for _, m := range promstats.Metrics() {
		if !strings.Contains(text, "# TYPE "+m.Name+" "+m.Kind+"\n") {
			t.Errorf("%s is not there as a %s", m.Name, m.Kind)
		}
		if m.Kind == "counter" != strings.HasSuffix(m.Name, "_total") {
			t.Errorf("%s is a %s: counters, and only they, end in _total", m.Name, m.Kind)
		}
	}
}

// TestDashboardAndAlerts: what they ask for exists, and each alert has its place in the runbook.
func TestDashboardAndAlerts(t *testing.T) {
	text := scrape(t)
	asked := 0
	known := func(expr, where string) {
		t.Helper()
		for _, name := range regexp.MustCompile(`(?:fanfare|process|go)_[a-z_]+`).FindAllString(expr, -1) {
			asked++
			base := strings.TrimSuffix(name, "_bucket")
			if !strings.Contains(text, "# TYPE "+base+" ") {
				t.Errorf("%s asks for %s, which does not exist", where, name)
			}
		}
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	b, err := os.ReadFile("../../deploy/grafana/fanfare.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &board); err != nil || len(board.Panels) < 10 {
		t.Fatalf("%d panels, %v", len(board.Panels), err)
	}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			known(target.Expr, p.Title)
		}
	}
	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations struct{ Runbook string }
			}
		}
	}
	if b, err = os.ReadFile("../../deploy/prometheus/alerts.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, &alerts); err != nil || len(alerts.Groups) != 1 || len(alerts.Groups[0].Rules) < 15 {
		t.Fatalf("%+v, %v", alerts, err)
	}
	runbook, err := os.ReadFile("../../docs/guide/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range alerts.Groups[0].Rules {
		known(rule.Expr, rule.Alert)
		if rule.Annotations.Runbook != "docs/guide/runbook.md#"+strings.ToLower(rule.Alert) ||
			!strings.Contains(string(runbook), "\n## "+rule.Alert+"\n") {
			t.Errorf("%s has no place in the runbook", rule.Alert)
		}
	}
	if asked < 40 {
		t.Errorf("only %d names were looked at", asked)
	}
}
