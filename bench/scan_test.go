package bench

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

// vast is a hub over a log of a million events, on as many channels as asked for, and one channel
// of somebody else's.
type vast struct {
	b     *testing.B
	log   *pebblelog.Log
	addr  string
	start fanfare.Position // before all events
	mine  int              // events on the channel `mine`
}

func newVast(b *testing.B, channels int, o server.Options) *vast {
	b.Helper()
	v := &vast{b: b, log: openLog(b, pebblelog.Options{Dir: b.TempDir()}), mine: 100}
	v.start = v.log.Status().Durable
	const events, batch = 1_000_000, 1000
	for first := 0; first < events; first += batch {
		all := &fanfare.Batch{}
		for i := first; i < first+batch; i++ {
			all.Events = append(all.Events,
				fanfare.Event{Channel: logtest.Channel(fmt.Sprintf("c/%d", i%channels)), Data: "a short text"})
		}
		if first%(events/v.mine) == 0 {
			all.Events[0].Channel = logtest.Channel("mine")
		}
		if _, err := logtest.Append(v.log, all); err != nil {
			b.Fatal(err)
		}
	}
	o.Log = v.log
	s, err := server.New(o)
	if err != nil {
		b.Fatal(err)
	}
	web := httptest.NewServer(s)
	v.addr = web.Listener.Addr().String()
	b.Cleanup(func() {
		web.Close()
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return v
}

// open sends a stream's request.
func (v *vast) open(query, header string) net.Conn {
	v.b.Helper()
	conn, err := net.Dial("tcp", v.addr)
	if err != nil {
		v.b.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET /v1/events?%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", query,
		header); err != nil {
		v.b.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Minute))
	return conn
}

// resume is how long it takes to hear all of `mine`, after everything else has been opened.
func (v *vast) resume(header string) time.Duration {
	v.b.Helper()
	began := time.Now()
	conn := v.open("channel=mine", header+"Last-Event-ID: "+v.start.String()+"\r\n")
	defer conn.Close()
	r := bufio.NewReader(conn)
	for n := 0; n < v.mine; {
		line, err := r.ReadString('\n')
		if err != nil {
			v.b.Fatalf("after %d events: %v", n, err)
		}
		if strings.HasPrefix(line, "data: a short") {
			n++
		}
	}
	return time.Since(began)
}

func bearer(b *testing.B, subject string) string {
	b.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": subject, "exp": time.Now().Add(time.Hour).Unix(), "fanfare": map[string]any{"subscribe": []string{"**"}},
	}).SignedString([]byte(secret))
	if err != nil {
		b.Fatal(err)
	}
	return "Authorization: Bearer " + text + "\r\n"
}

func median(list []time.Duration) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkAbandonedScans is what 200 resumes with a wildcard that match nothing, over a log of a
// million events, cost somebody else's resume of one channel. The bar, when they are closed at
// once, is the larger of 5 times what it takes alone and 100 ms, median of 10.
func BenchmarkAbandonedScans(b *testing.B) {
	for _, channels := range []int{1000, 1_000_000} {
		a, err := auth.New(auth.Options{Keys: []auth.Key{{Algorithm: "HS256", Text: secret}}})
		if err != nil {
			b.Fatal(err)
		}
		v := newVast(b, channels, server.Options{Access: server.AccessOptions{Auth: a}})
		herd, other := bearer(b, "herd"), bearer(b, "other")
		for _, pattern := range []string{"none/*", "*/none", "*/none-%d"} {
			for _, stay := range []bool{false, true} {
				b.Run(fmt.Sprintf("channels=%d/pattern=%s/stay=%v", channels, pattern, stay), func(b *testing.B) {
					for b.Loop() {
						var alone, beside []time.Duration
						for range 10 {
							alone = append(alone, v.resume(other))
						}
						for range 10 {
							var scans []net.Conn
							for i := range 200 {
								// nothing to share
								query := "channel=" + strings.ReplaceAll(pattern, "%d", strconv.Itoa(i))
								conn := v.open(query, herd+"Last-Event-ID: "+v.start.String()+"\r\n")
								if stay {
									scans = append(scans, conn)
								} else {
									_ = conn.Close()
								}
							}
							beside = append(beside, v.resume(other))
							for _, conn := range scans {
								_ = conn.Close()
							}
						}
						b.ReportMetric(ms(median(alone)), "ms-alone")
						b.ReportMetric(ms(median(beside)), "ms-beside")
						b.ReportMetric(ms(slices.Max(beside)), "ms-worst")
					}
				})
			}
		}
		a.Close()
	}
}

// BenchmarkReplayOfManyChannels is how soon a replay over a million channels begins: until the head
// is there, until the first event with its position, and until the first replayed event.
func BenchmarkReplayOfManyChannels(b *testing.B) {
	v := newVast(b, 1_000_000, server.Options{})
	for _, replay := range []string{"replay=10", "replay=1000", "replay=all", "since=1m"} {
		b.Run(replay, func(b *testing.B) {
			for b.Loop() {
				var head, first, event []time.Duration
				for range 10 {
					began := time.Now()
					conn := v.open("channel=**&"+replay, "")
					r := bufio.NewReader(conn)
					for _, until := range []struct {
						prefix string
						took   *[]time.Duration
					}{{"HTTP/1.1 200", &head}, {"id: ", &first}, {"data: a short", &event}} {
						for {
							line, err := r.ReadString('\n')
							if err != nil && err != io.EOF {
								b.Fatal(err)
							}
							if strings.HasPrefix(line, until.prefix) {
								break
							}
						}
						*until.took = append(*until.took, time.Since(began))
					}
					_ = conn.Close()
				}
				b.ReportMetric(ms(median(head)), "ms-head")
				b.ReportMetric(ms(median(first)), "ms-first")
				b.ReportMetric(ms(median(event)), "ms-event")
			}
		})
	}
}
