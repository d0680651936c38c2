package e2e

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSecurityGuide runs docs/guide/security.md from top to bottom in an empty folder, as somebody
// with two terminals would: a block that begins with `fanfare serve` runs until the next one of its
// kind, and the nginx that the page speaks of is there when it is due.
func TestSecurityGuide(t *testing.T) {
	needCurl(t)
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("SKIPPED: no openssl; e2e/setup says why")
	}
	dir, port, proxyPort := t.TempDir(), freePort(t), freePort(t)
	replace := strings.NewReplacer("127.0.0.1:8082", "127.0.0.1:"+port, "8443", proxyPort)
	t.Setenv("PATH", filepath.Dir(binary)+":"+os.Getenv("PATH"))
	t.Setenv("FANFARE_URL", "http://127.0.0.1:"+port)
	ran := 0
	var hub *exec.Cmd
	log := &tailBuffer{}
	stop := func() {
		if hub != nil {
			_ = hub.Process.Signal(os.Interrupt)
			_ = hub.Wait()
			hub = nil
		}
	}
	defer stop()
	for _, block := range shellBlock.FindAllStringSubmatch(read(t, "../docs/guide/security.md"), -1) {
		script := replace.Replace(block[1])
		if strings.HasPrefix(script, "fanfare serve ") {
			stop()
			hub = exec.Command("bash", "-c",
				"exec "+strings.TrimSpace(script)+" --drain-window 100ms --addr 127.0.0.1:"+port)
			hub.Dir, hub.Stdout, hub.Stderr = dir, log, log
			if err := hub.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the hub listens: "+script, func() bool {
				c, err := net.Dial("tcp", "127.0.0.1:"+port)
				if err == nil {
					_ = c.Close()
				}
				return err == nil
			})
			continue
		}
		if strings.Contains(script, "--resolve") && !nginxFor(t, dir, port, proxyPort) {
			t.Log("SKIPPED: no nginx; e2e/setup says why")
			continue
		}
		cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", script)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s\n%v\n%s\n%s", script, err, out, log)
		}
		ran++
	}
	if ran < 9 {
		t.Errorf("only %d blocks were run", ran)
	}
	stop()
	http.DefaultClient.CloseIdleConnections()
}

// nginxFor starts the documented nginx with the guide's certificate.
func nginxFor(t *testing.T, dir, port, proxyPort string) bool {
	t.Helper()
	if _, err := exec.LookPath("nginx"); err != nil {
		return false
	}
	config := strings.NewReplacer("127.0.0.1:8443", "127.0.0.1:"+proxyPort, "127.0.0.1:8082", "127.0.0.1:"+port,
		"/etc/ssl/", dir+"/", "DIR", dir).
		Replace(nginxHTTP(read(t, "../deploy/nginx/fanfare.conf")))
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, "nginx", nginxArgs(file)...)
	eventually(t, "nginx listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+proxyPort)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return true
}
