package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

const secret = "a secret of the benchmarks, long enough for HS256"

func token(b *testing.B) string {
	b.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "ada", "exp": time.Now().Add(time.Hour).Unix(), "jti": "0123456789abcdef",
		"fanfare": map[string]any{"publish": []string{"other", "users/{sub}/**", "c/*"}},
	}).SignedString([]byte(secret))
	if err != nil {
		b.Fatal(err)
	}
	return text
}

func authenticator(b *testing.B) *auth.Authenticator {
	b.Helper()
	a, err := auth.New(auth.Options{Keys: []auth.Key{{Algorithm: "HS256", Text: secret}}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(a.Close)
	return a
}

// BenchmarkGrantCheck is what rights cost a publish whose token has passed before: from the token
// to the answer whether it may publish there. The bar is 1 µs, and no allocation.
func BenchmarkGrantCheck(b *testing.B) {
	a, text, c := authenticator(b), token(b), logtest.Channel("c/7")
	b.ReportAllocs()
	n := 0
	began := time.Now()
	for b.Loop() {
		for range 1_000_000 { // -benchtime 1x
			p, err := a.Verify(context.Background(), text)
			if err != nil || !p.May(fanfare.ActionPublish, c) {
				b.Fatal(err)
			}
			n++
		}
	}
	b.ReportMetric(float64(time.Since(began).Nanoseconds())/float64(n), "ns/check")
}

// served is a hub behind a real listener, with the command's times.
func served(b *testing.B, o server.Options) (addr string) {
	b.Helper()
	o.Log = openLog(b, pebblelog.Options{Dir: b.TempDir()})
	s, err := server.New(o)
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	web := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute,
		WriteTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 256 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = web.Serve(l)
	}()
	b.Cleanup(func() {
		_ = web.Close()
		<-done
		_ = s.Close()
	})
	return l.Addr().String()
}

// publisher sends publishes over one connection, one after the other, and reads no more of the
// answers than it must.
type publisher struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
}

func newPublisher(b *testing.B, addr, header string, w int) *publisher {
	b.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	return &publisher{conn, bufio.NewReader(conn),
		fmt.Appendf(nil, "POST /v1/channels/c/%d HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: 200\r\n\r\n%s", w,
			header, strings.Repeat("x", 200))}
}

func (p *publisher) publish() error {
	if _, err := p.conn.Write(p.request); err != nil {
		return err
	}
	length := 0
	for first := true; ; first = false {
		line, err := p.in.ReadString('\n')
		if err != nil {
			return err
		}
		if first && !strings.HasPrefix(line, "HTTP/1.1 201") {
			return fmt.Errorf("answered %s", line)
		}
		if n, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			length, _ = strconv.Atoi(strings.TrimSpace(n))
		}
		if line == "\r\n" {
			_, err := io.CopyN(io.Discard, p.in, int64(length))
			return err
		}
	}
}

const connections = 64

func publishers(b *testing.B, addr, header string) (list []*publisher) {
	for w := range connections {
		list = append(list, newPublisher(b, addr, header, w))
	}
	return list
}

// BenchmarkPublishWithAuth compares publishes over HTTP to a hub that asks for tokens, with its
// audit trail, and to one that does not. The bar is a ratio of 0.9.
func BenchmarkPublishWithAuth(b *testing.B) {
	open := publishers(b, served(b, server.Options{}), "")
	secured := publishers(b,
		served(b, server.Options{AuditRate: 100, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
			Access: server.AccessOptions{Auth: authenticator(b)}}), "Authorization: Bearer "+token(b)+"\r\n")
	for b.Loop() {
		with, without, ratio := medians(func() (float64, float64) {
			return perSecond(b, connections, func(w int) error { return secured[w].publish() }),
				perSecond(b, connections, func(w int) error { return open[w].publish() })
		})
		b.ReportMetric(with, "with/s")
		b.ReportMetric(without, "without/s")
		b.ReportMetric(ratio, "ratio")
	}
}

// BenchmarkSlowloris compares a healthy publisher's rate with 5,000 connections that send a
// header's line each second and never an end, and without them. The bar is a ratio of 0.9.
func BenchmarkSlowloris(b *testing.B) {
	const attackers = 5000
	addr := served(b, server.Options{})
	healthy := publishers(b, addr, "")
	attack := func() (end func()) {
		var conns []net.Conn
		for range attackers {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.WriteString(c, "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\n")
			conns = append(conns, c)
		}
		stop := make(chan struct{})
		var running sync.WaitGroup
		running.Go(func() { // spread over the second, as an attacker would
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				select {
				case <-tick.C:
				case <-stop:
					return
				}
				for n := range attackers / 100 {
					_, _ = io.WriteString(conns[(i*attackers/100+n)%attackers], "X-a: b\r\n")
				}
			}
		})
		return func() {
			close(stop)
			running.Wait()
			for _, c := range conns {
				_ = c.Close()
			}
			time.Sleep(300 * time.Millisecond) // the server notices
		}
	}
	for b.Loop() {
		under, alone, ratio := medians(func() (float64, float64) {
			end := attack()
			under := perSecond(b, connections, func(w int) error { return healthy[w].publish() })
			end()
			return under, perSecond(b, connections, func(w int) error { return healthy[w].publish() })
		})
		b.ReportMetric(under, "attacked/s")
		b.ReportMetric(alone, "alone/s")
		b.ReportMetric(ratio, "ratio")
	}
}
