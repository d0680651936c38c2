package publish

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/limit"
)

// TestBodiesOfAllSizes: a body of any length, announced or not, comes as it was sent, is held while
// it is needed, and its time does not go on after it.
func TestBodiesOfAllSizes(t *testing.T) {
	const most = 300_000
	s := &Bodies{Budget: &limit.Budget{Most: 4 * most}, Timeout: 3 * time.Second}
	got := make(chan string, 1)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := s.Read(w, r, caller.Caller{Who: &fanfare.Principal{}}, most, fanfare.SettingMaxRequestBytes)
		if held := s.Budget.Held(); err == nil && (held > 0) != (cap(body.Bytes) > FreeBytes) ||
			held > 4*len(body.Bytes) {
			t.Errorf("of %d bytes %d are held", len(body.Bytes), held)
		}
		if len(body.Bytes) == most {
			select {
			case <-r.Context().Done():
				t.Error("the request was given up when the time for its body was over, though it had come")
			case <-time.After(s.Timeout + 200*time.Millisecond):
			}
		}
		got <- string(body.Bytes)
		if body.Free(); s.Budget.Held() != 0 {
			t.Errorf("%d bytes are held", s.Budget.Held())
		}
		if err != nil {
			w.Header().Set("X-Error", err.Error())
		}
	}))
	defer web.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for _, n := range []int{0, 1, 511, 512, 513, 4095, 4096, 4097, FreeBytes - 2, FreeBytes - 1, FreeBytes,
		FreeBytes + 1, 65_535, 65_536, 65_537, 262_144, most - 1, most, most + 1} {
		for _, announced := range []int64{int64(n), -1} {
			body := strings.Repeat("0123456789", n/10+1)[:n]
			req, err := http.NewRequest("POST", web.URL, struct{ *strings.Reader }{strings.NewReader(body)})
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = announced
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			text, refused := <-got, resp.Header.Get("X-Error")
			if n > most {
				if !strings.Contains(refused, "(max-request-bytes)") || text != "" {
					t.Errorf("%d bytes: %d came, %s", n, len(text), refused)
				}
			} else if text != body || refused != "" {
				t.Errorf("%d bytes, %d announced: %d came, %s", n, announced, len(text), refused)
			}
		}
	}
}
