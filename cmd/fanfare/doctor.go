package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

type doctorCmd struct {
	URL     string `arg:"" optional:"" help:"The hub as its clients reach it, such as https://push.example.com; default $FANFARE_URL."`
	Channel string `default:"fanfare/doctor" help:"The channel to try; an event is published to it."`
	bearer
	Idle span `default:"65s" help:"How long to watch an idle stream: most proxies that cut idle connections do so after 60s."`
}

// Help implements kong.HelpProvider.
func (doctorCmd) Help() string {
	return `Example: fanfare doctor https://push.example.com

Opens streams and publishes an event as clients do, and reports faults on the way: a proxy that buffers, compresses or cuts,
wrong headers, clocks that differ, a certificate about to expire. Each fault comes with its remedy. Exits with 1 when there
is a fault.`
}

// checkup is one run of the doctor.
type checkup struct {
	cmd    *doctorCmd
	std    *stdio
	client *http.Client
	faults int
}

func (c *doctorCmd) Run(ctx context.Context, std *stdio) error {
	if c.URL == "" {
		c.URL = os.Getenv("FANFARE_URL")
	}
	c.URL = strings.TrimSuffix(c.URL, "/")
	if _, ok := parseTarget(c.URL); !ok {
		return &exitError{exitUsage, fmt.Errorf("%q: want http://host:port or https://host", shownURL(c.URL))}
	}
	transport := &http.Transport{
		// compression is asked for by hand
		DisableCompression: true, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment,
	}
	if c.CACert != "" {
		roots, err := readRoots(c.CACert)
		if err != nil {
			return &exitError{exitUsage, fmt.Errorf("--cacert: %w", err)}
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	d := &checkup{cmd: c, std: std, client: &http.Client{Transport: transport}}
	defer d.client.CloseIdleConnections()
	resp, err := d.reach(ctx)
	if err != nil {
		return &exitError{exitUnreachable, fmt.Errorf("%s cannot be reached: %w", withoutPassword(c.URL), err)}
	}
	d.clock(resp)
	d.tls(resp)
	d.protocol(resp)
	if d.headers(ctx) {
		d.buffering(ctx)
		d.idle(ctx)
	}
	switch d.faults {
	case 0:
	case 1:
		return errors.New("one thing has to be mended")
	default:
		return fmt.Errorf("%d things have to be mended", d.faults)
	}
	return ctx.Err()
}

func (d *checkup) good(format string, args ...any) {
	fmt.Fprintf(d.std.out, "ok    "+format+"\n", args...)
}

func (d *checkup) note(format string, args ...any) {
	fmt.Fprintf(d.std.out, "note  "+format+"\n", args...)
}

// bad reports a fault and its remedy.
func (d *checkup) bad(mend, format string, args ...any) {
	d.faults++
	fmt.Fprintf(d.std.out, "BAD   "+format+"\n", args...)
	for _, line := range strings.Split(mend, "\n") {
		fmt.Fprintf(d.std.out, "      → %s\n", line)
	}
}

func (d *checkup) get(ctx context.Context, path string, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.cmd.URL+path, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	if err := d.cmd.authorize(req); err != nil {
		return nil, err
	}
	return d.client.Do(req)
}

// reach asks for readiness.
func (d *checkup) reach(ctx context.Context) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	resp, err := d.get(ctx, "/readyz")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	switch {
	case resp.StatusCode == http.StatusOK && strings.Contains(string(body), `"ready"`):
		d.good("the hub is reached and ready")
	case resp.StatusCode == http.StatusForbidden && strings.Contains(string(body), "--allowed-host"):
		d.bad("start the hub with --allowed-host "+resp.Request.URL.Hostname()+", or have the proxy send a Host that "+
			"the hub knows",
			"the hub refuses the name under which it is reached")
	case resp.StatusCode == http.StatusServiceUnavailable:
		d.bad("look at the hub's log; "+asProblem(resp, body).Error(), "the hub is reached, and is not ready")
	default:
		d.bad("check that the proxy passes /readyz and /v1/ on to the hub as they are",
			"GET /readyz was answered %s, and not by a hub", resp.Status)
	}
	return resp, nil
}

// clock compares clocks: ages, expiry of tokens and --since go by the hub's.
func (d *checkup) clock(resp *http.Response) {
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		d.note("the answer has no Date, so clocks cannot be compared")
		return
	}
	if off := time.Since(at); off > 5*time.Second || off < -5*time.Second {
		d.bad("run an NTP client on both machines", "the server's clock and this one differ by %s",
			off.Round(time.Second))
		return
	}
	d.good("clocks agree")
}

func (d *checkup) tls(resp *http.Response) {
	if resp.TLS == nil {
		if ip := net.ParseIP(resp.Request.URL.Hostname()); resp.Request.URL.Hostname() != "localhost" &&
			(ip == nil || !ip.IsLoopback()) {
			d.bad("put TLS in front: docs/guide/proxy.md has configurations for nginx, Caddy and HAProxy",
				"the connection is not encrypted: proxies on the way may buffer or change it, and tokens can be read")
		}
		return
	}
	if left := time.Until(resp.TLS.PeerCertificates[0].NotAfter); left < 14*24*time.Hour {
		d.bad("renew it, and see why it is not renewed by itself", "the certificate expires in %s",
			left.Round(time.Hour))
		return
	}
	d.good("%s, and the certificate holds until %s", tls.VersionName(resp.TLS.Version),
		resp.TLS.PeerCertificates[0].NotAfter.Format(time.DateOnly))
}

func (d *checkup) protocol(resp *http.Response) {
	if resp.ProtoMajor >= 2 {
		d.good("HTTP/2: a browser can hold as many streams as it likes")
		return
	}
	d.note("HTTP/1.1: a browser opens at most 6 connections to one host, so a 7th tab with a stream waits.\n" +
		"      → enable HTTP/2 in the proxy (nginx: http2 on), or listen to many channels on one stream")
}

func (d *checkup) streamPath(query string) string {
	return "/v1/events?channel=" + url.QueryEscape(d.cmd.Channel) + query
}

// headers looks at the head of a stream; false when there is none.
func (d *checkup) headers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	began := time.Now()
	resp, err := d.get(ctx, d.streamPath("&heartbeat=1"), "Accept", "text/event-stream", "Accept-Encoding",
		"gzip, br, zstd, deflate")
	if err != nil {
		d.bad(buffered, "a stream was not answered within 15 s: %v", err)
		return false
	}
	defer resp.Body.Close()
	kind := resp.Header.Get("Content-Type")
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		d.bad("give --token-file with a token that may subscribe and publish to "+d.cmd.Channel+
			", or name a --channel that it may; "+asProblem(resp, body).Error(),
			"a stream was answered %s", resp.Status)
		return false
	case resp.StatusCode != http.StatusOK:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		d.bad("a stream needs 200; "+asProblem(resp, body).Error(), "a stream was answered %s", resp.Status)
		return false
	case !strings.HasPrefix(kind, "text/event-stream"):
		d.bad("check that the proxy passes /v1/events on to the hub and does not answer it itself",
			"a stream has the content type %q", kind)
		return false
	}
	d.good("a stream opens, in %s", time.Since(began).Round(time.Millisecond))
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" {
		d.bad("switch compression off for text/event-stream (nginx: leave it out of gzip_types; HAProxy: of "+
			"compression type)",
			"a proxy compresses the stream (%s), which holds events back", encoding)
	} else {
		d.good("nothing compresses the stream")
	}
	if cache := resp.Header.Get("Cache-Control"); !strings.Contains(cache, "no-cache") &&
		!strings.Contains(cache, "no-store") {
		d.bad("have the proxy leave the hub's Cache-Control as it is",
			"Cache-Control is %q: something may keep the stream", cache)
	}
	if resp.ContentLength >= 0 {
		d.bad(buffered, "the stream has a Content-Length: something has read it to an end")
	}
	return true
}

const buffered = "switch response buffering off for the hub (nginx: proxy_buffering off, or let " +
	"X-Accel-Buffering pass;\n" +
	"a CDN or an anti-virus proxy in between may need an exception)"

// lines sends each line of a stream, until it ends.
func lines(resp *http.Response) <-chan string {
	out := make(chan string, 100)
	go func() {
		defer close(out)
		in := bufio.NewReader(resp.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			select {
			case out <- strings.TrimRight(line, "\r\n"):
			case <-resp.Request.Context().Done():
				return
			}
		}
	}()
	return out
}

// heldBack is more than the way to a client and back takes; HAProxy without http-no-delay waits for
// 110 to 220 ms.
const heldBack = 80 * time.Millisecond

// buffering publishes events and waits for each.
func (d *checkup) buffering(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	resp, err := d.get(ctx, d.streamPath(""), "Accept", "text/event-stream")
	if err != nil {
		d.bad(buffered, "the stream was not answered a second time: %v", err)
		return
	}
	defer resp.Body.Close()
	stream := lines(resp)
	if !waitFor(stream, "data:", 5*time.Second) {
		d.bad(buffered, "the first event of a stream does not come through at once")
		return
	}
	took, behind := time.Hour, time.Hour // the shortest: one may be slow for many reasons, and each of them for one
	for range 5 {
		mark := newKey()
		published := time.Now()
		if err := d.publish(ctx, mark); err != nil {
			d.note("nothing can be published from here, so delivery was not timed: %v", err)
			return
		}
		answered := time.Now()
		if !waitFor(stream, "data: "+mark, 10*time.Second) {
			d.bad(buffered, "an event that was published did not come through within 10 s")
			return
		}
		took, behind = min(took, time.Since(published)), min(behind, time.Since(answered))
	}
	switch took = took.Round(time.Millisecond); {
	case took > time.Second:
		d.bad(buffered, "events take %s from publish to delivery", took)
	case behind > heldBack:
		d.bad("have the proxy send events at once (HAProxy: option http-no-delay; nginx: proxy_buffering off)",
			"events come %s after their publish was answered, each of them: something holds them back",
			behind.Round(time.Millisecond))
	default:
		d.good("an event took %s from publish to delivery", took)
	}
}

func waitFor(stream <-chan string, prefix string, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-stream:
			if !ok {
				return false
			}
			if strings.HasPrefix(line, prefix) {
				return true
			}
		case <-timer.C:
			return false
		}
	}
}

func (d *checkup) publish(ctx context.Context, data string) error {
	body, err := json.Marshal(map[string]string{"channel": d.cmd.Channel, "data": data})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.cmd.URL+"/v1/events",
		strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if err := d.cmd.authorize(req); err != nil {
		return err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode >= 300 {
		return asProblem(resp, text)
	}
	return nil
}

// idle watches a stream on which nothing happens but the heartbeat.
func (d *checkup) idle(ctx context.Context) {
	limit := time.Duration(d.cmd.Idle)
	if limit <= 0 {
		return
	}
	fmt.Fprintf(d.std.out, "...   watching an idle stream for %s (--idle)\n", limit)
	ctx, cancel := context.WithTimeout(ctx, limit+10*time.Second)
	defer cancel()
	resp, err := d.get(ctx, d.streamPath(""), "Accept", "text/event-stream")
	if err != nil {
		d.bad(buffered, "the stream was not answered: %v", err)
		return
	}
	defer resp.Body.Close()
	stream := lines(resp)
	began, last := time.Now(), time.Now()
	longest, signs := time.Duration(0), 0
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case _, ok := <-stream:
			if !ok {
				if !errors.Is(ctx.Err(), context.Canceled) {
					d.bad("raise the proxy's idle or read timeout well above the hub's --heartbeat (nginx: "+
						"proxy_read_timeout 1h;\nHAProxy: timeout tunnel, timeout server), or lower --heartbeat",
						"the stream was cut after %s, with the last sign of life %s before",
						time.Since(began).Round(time.Second), time.Since(last).Round(time.Second))
				}
				return
			}
			if time.Since(last) > 500*time.Millisecond {
				signs++
			}
			longest = max(longest, time.Since(last))
			last = time.Now()
		case <-timer.C:
			if longest = max(longest, time.Since(last)); longest > 50*time.Second {
				d.bad("lower the hub's --heartbeat (15s is good), or have the proxy pass comments through",
					"no sign of life came for %s: most proxies cut such a connection", longest.Round(time.Second))
				return
			}
			if signs < 2 {
				d.good("an idle stream lives for %s; no sign of life was due", limit)
				return
			}
			d.good("an idle stream lives, with a sign of life at least every %s", longest.Round(time.Second))
			return
		case <-ctx.Done():
			return
		}
	}
}
