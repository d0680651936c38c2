package server_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare/server"
)

const positionText = `[0-9A-HJKMNP-TV-Z]{13}`

var varying = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`Date: [^\n]+`), "Date: DATE"},
	{regexp.MustCompile(`retry: \d+`), "retry: N"},
	{regexp.MustCompile(positionText), "POSITION"},
	{regexp.MustCompile(`"time":"[^"]+"`), `"time":"TIME"`},
}

// normal replaces what differs from run to run, and shows CRLF as LF.
func normal(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	for _, v := range varying {
		s = v.what.ReplaceAllString(s, v.with)
	}
	return s
}

// TestWire compares answers, byte by byte, with the golden files that docs/format/stream.md
// describes: a request behind "> ", and the answer. FANFARE_UPDATE_GOLDEN=1 writes them anew.
func TestWire(t *testing.T) {
	f := start(t, server.Options{Streams: server.StreamOptions{Lifetime: 2 * time.Second},
		Stores: server.StoreOptions{Lifetime: 2 * time.Second},
		Access: server.AccessOptions{Origins: []string{"https://app.example.com"}}})
	f.publish("golden", "one", "two\r\nlines", "")
	f.publish("golden?event=tick", `{"price":101.5}`)
	files, err := filepath.Glob("../contract/wire/*.http")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d golden files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var request, want strings.Builder
			for _, line := range strings.SplitAfter(string(text), "\n") {
				if sent, ok := strings.CutPrefix(line, "> "); ok {
					request.WriteString(strings.TrimSuffix(sent, "\n") + "\r\n")
				} else if sent, ok := strings.CutPrefix(line, ">>"); ok { // the request's body, without a line end
					request.WriteString(strings.TrimSuffix(sent, "\n"))
				} else {
					want.WriteString(line)
				}
			}
			conn, r := f.dial(request.String())
			_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
			var got strings.Builder
			for {
				b, err := r.ReadByte()
				if err != nil {
					break // all of these end by themselves
				}
				got.WriteByte(b)
			}
			if os.Getenv("FANFARE_UPDATE_GOLDEN") != "" {
				requestLines, _, _ := strings.Cut(string(text), "\nHTTP/")
				if err := os.WriteFile(file, []byte(strings.TrimSuffix(requestLines, "\n")+"\n"+normal(got.String())),
					0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want.String(), normal(got.String())); diff != "" {
				t.Errorf("(-golden +now):\n%s", diff)
			}
		})
	}
	bare := start(t, server.Options{Streams: server.StreamOptions{BareContentType: true}})
	if a := bare.call("HEAD", "/v1/events?channel=a", ""); a.header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("bare: %v", a.header)
	}
}
