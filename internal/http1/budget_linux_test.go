package http1

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/fanfare-hub/fanfare/internal/limit"
)

// TestLargeRequestsAreCounted: a request that is larger than one read is held of the budget while
// it comes and while it is answered, as far as it has come, and small ones never touch it.
func TestLargeRequestsAreCounted(t *testing.T) {
	entered, leave := make(chan bool), make(chan struct{})
	h := begin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/p/first" {
			_, ours := w.(*answer)
			entered <- ours
			<-leave
		}
		echo(w, r)
	}, nil)
	budget := &limit.Budget{Most: 1 << 20}
	h.conns.o.Budget = budget
	conn, r := h.dial(t)
	head := "POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"
	send(t, conn, head+strings.Repeat("x", 20_000))
	within(t, "what has come is held", func() bool { return budget.Held() >= 20_000 })
	if held := budget.Held(); held > 40_000 {
		t.Errorf("of 20,000 bytes %d are held", held)
	}
	send(t, conn, strings.Repeat("x", 40_000))
	ours := <-entered // unless a second has passed, and with it the time for requests here
	if held := budget.Held(); ours && (held < 60_000 || held > 80_000) {
		t.Errorf("of 60,000 bytes %d are held while they are answered", held)
	}
	leave <- struct{}{}
	if text := read(t, r); !strings.Contains(text, "200 OK") {
		t.Error(text)
	}
	within(t, "it is free again", func() bool { return budget.Held() == 0 })
	send(t, conn, "POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: 15000\r\n\r\n"+strings.Repeat("x", 15_000))
	<-entered
	if held := budget.Held(); held != 0 {
		t.Errorf("%d bytes of a small request are held", held)
	}
	leave <- struct{}{}
	read(t, r)
	// Whoever goes in the middle leaves nothing behind.
	send(t, conn, strings.Replace(head, "/a", "/first", 1)+strings.Repeat("x", 30_000))
	within(t, "what has come is held", func() bool { return budget.Held() >= 30_000 })
	_ = conn.Close()
	within(t, "it is free again", func() bool { return budget.Held() == 0 })
}

// TestWithoutRoomItIsNetHTTPs: a request that the budget refuses is answered by net/http, with
// every byte that had come.
func TestWithoutRoomItIsNetHTTPs(t *testing.T) {
	h := begin(t, echo, nil)
	h.conns.o.Budget = &limit.Budget{Most: 50_000}
	body := strings.Repeat("0123456789", 6000)
	for range 3 {
		conn, r := h.dial(t)
		send(t, conn, fmt.Sprintf("POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", len(body)))
		for part := body; part != ""; part = part[1000:] {
			send(t, conn, part[:1000])
		}
		if text := read(t, r); !strings.Contains(text, body) {
			t.Errorf("%.200s", text)
		}
	}
	if n := h.taken.Load(); n != 0 {
		t.Errorf("%d were answered here", n)
	}
	within(t, "nothing is held", func() bool { return h.conns.o.Budget.Held() == 0 })
}
