package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// target is the hub that a command speaks to.
type target struct {
	URL string `default:"http://127.0.0.1:8082" help:"The hub's address; FANFARE_URL sets it too." name:"url"`
	bearer
}

// bearer gives the token of a command to a hub that asks for one.
type bearer struct {
	Token     string `secret:"" help:"Token or API key; better in FANFARE_TOKEN or a file, since others on the machine see a command's arguments." placeholder:"TOKEN"`
	TokenFile string `help:"File with the token or API key." placeholder:"FILE"`
	CACert    string `name:"cacert" help:"Certificates that the hub's own is checked with, PEM. Default: the system's." placeholder:"FILE"`

	http *http.Client `kong:"-"`
}

// client checks the hub's certificate as the settings say. Each call returns the same one.
func (b *bearer) client() (*http.Client, error) {
	switch {
	case b.http != nil:
		return b.http, nil
	case b.CACert == "":
		b.http = http.DefaultClient
		return b.http, nil
	}
	roots, err := readRoots(b.CACert)
	if err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("--cacert: %w", err)}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	b.http = &http.Client{Transport: transport}
	return b.http, nil
}

// authorize puts the token into a request.
func (b bearer) authorize(req *http.Request) error {
	token := b.Token
	if b.TokenFile != "" {
		text, err := os.ReadFile(b.TokenFile)
		if err != nil {
			return &exitError{exitUsage, fmt.Errorf("--token-file: %w", err)}
		}
		if token = strings.TrimSpace(string(text)); token == "" {
			return &exitError{exitUsage, fmt.Errorf("--token-file: %s is empty", b.TokenFile)}
		}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return nil
}

// problem is the answer of a hub that refuses a request.
type problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Code   string `json:"code"`
	Detail string `json:"detail"`

	retryAfter time.Duration
}

func (p *problem) Error() string {
	if p.Detail == "" {
		return fmt.Sprintf("the hub answered %d %s", p.Status, p.Title)
	}
	return fmt.Sprintf("the hub refused (%s): %s", p.Code, p.Detail)
}

// passing tells whether another try may help.
func passing(err error) bool {
	if p, ok := errors.AsType[*problem](err); ok {
		return p.Status == http.StatusTooManyRequests || p.Status >= 500
	}
	_, ok := errors.AsType[*url.Error](err)
	return ok
}

// asExit gives an error of a request its exit code.
func asExit(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if passing(err) {
		return &exitError{exitUnreachable, err}
	}
	return &exitError{exitRefused, err}
}

func (t target) request(
	ctx context.Context, method, path string, query url.Values, body []byte,
) (*http.Request, error) {
	base := strings.TrimSuffix(t.URL, "/")
	if _, ok := parseTarget(base); !ok {
		return nil, &exitError{exitUsage,
			fmt.Errorf("--url %q: want http://host:port or https://host", shownURL(t.URL))}
	}
	full := base + path
	if len(query) > 0 {
		full += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, full, bytes.NewReader(body))
	if err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("%s cannot be asked", shownURL(full))} // err shows the password
	}
	req.Header.Set("User-Agent", "fanfare/"+strings.ReplaceAll(version(), " ", "-"))
	return req, t.authorize(req)
}

// do sends a request and returns the body of a good answer; anything else is an error.
func (b *bearer) do(req *http.Request) ([]byte, error) {
	client, err := b.client()
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, &url.Error{Op: req.Method, URL: withoutPassword(req.URL.String()), Err: err}
	}
	if resp.StatusCode >= 300 {
		return nil, asProblem(resp, body)
	}
	return body, nil
}

func asProblem(resp *http.Response, body []byte) *problem {
	p := &problem{}
	_ = json.Unmarshal(body, p) // a proxy's page leaves it empty
	p.Status, p.Title = resp.StatusCode, http.StatusText(resp.StatusCode)
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		p.retryAfter = time.Duration(seconds) * time.Second
	}
	return p
}

// publish posts a body under an idempotency key, again and again while that may help, for the given
// time. The key makes a repeat harmless: no event is stored twice.
func (t *target) publish(
	ctx context.Context, path string, query url.Values, header http.Header, key string, body []byte,
	retryFor time.Duration,
) ([]byte, error) {
	began := time.Now()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		req, err := t.request(ctx, http.MethodPost, path, query, body)
		if err != nil {
			return nil, err
		}
		maps.Copy(req.Header, header)
		req.Header.Set("Idempotency-Key", key)
		answer, err := t.do(req)
		if err == nil || ctx.Err() != nil || !passing(err) || time.Since(began) > retryFor {
			return answer, asExit(err)
		}
		pause := wait/2 + rand.N(wait)
		if p, ok := errors.AsType[*problem](err); ok {
			pause = max(pause, p.retryAfter)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// asType is the header of a body of a type.
func asType(contentType string) http.Header { return http.Header{"Content-Type": {contentType}} }

// newKey makes an idempotency key.
func newKey() string {
	return fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
}

// channelPath is the path that publishes to a channel: every byte that is not plain is escaped, '/'
// stays.
func channelPath(channel string) string {
	segments := strings.Split(channel, "/")
	for i := range segments {
		segments[i] = url.PathEscape(segments[i])
		if segments[i] == "." || segments[i] == ".." {
			segments[i] = strings.ReplaceAll(segments[i], ".", "%2E") // or a proxy would walk up
		}
	}
	return "/v1/channels/" + strings.Join(segments, "/")
}
