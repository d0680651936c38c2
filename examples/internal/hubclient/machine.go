package hubclient

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// Machine are the figures of this machine, as Linux tells them.
type Machine struct {
	CPU    float64 `json:"cpu"`    // percent busy since the last call
	Memory float64 `json:"memory"` // percent in use
	Load   float64 `json:"load"`   // of one minute
}

// Meter reads figures; its zero value is ready.
type Meter struct{ busy, total float64 }

// Read reads the figures of now. Where there is no /proc they are zero.
func (m *Meter) Read() (f Machine) {
	if line, err := firstLine("/proc/stat"); err == nil {
		var user, nice, system, idle, wait float64
		_, _ = fmt.Sscanf(line, "cpu %f %f %f %f %f", &user, &nice, &system, &idle, &wait)
		busy, total := user+nice+system, user+nice+system+idle+wait
		if total > m.total {
			f.CPU = 100 * (busy - m.busy) / (total - m.total)
		}
		m.busy, m.total = busy, total
	}
	if line, err := firstLine("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(line, &f.Load)
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		var total, available float64
		for _, line := range strings.Split(string(b), "\n") {
			_, _ = fmt.Sscanf(line, "MemTotal: %f", &total)
			_, _ = fmt.Sscanf(line, "MemAvailable: %f", &available)
		}
		if total > 0 {
			f.Memory = 100 * (total - available) / total
		}
	}
	return f
}

func firstLine(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return bufio.NewReader(f).ReadString('\n')
}
