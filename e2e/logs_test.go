package e2e

import (
	"os"
	"os/exec"
	"testing"
)

// TestReaderOfTheLogGoes: a hub whose log nobody reads any more goes on (`fanfare serve 2>&1 |
// head`).
func TestReaderOfTheLogGoes(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "serve", "--addr", "127.0.0.1:0", "--data", t.TempDir(), "--access-log", "1")
	cmd.Stderr = w
	h := serveWith(t, cmd)
	_ = w.Close()
	_ = r.Close()
	for range 20 { // each is a record
		if _, err := publish(h.url("/v1/channels/a"), "x"); err != nil {
			t.Fatalf("the hub has gone with the reader of its log: %v", err)
		}
	}
	h.stop()
}
