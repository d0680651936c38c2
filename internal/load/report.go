package load

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Report holds the figures of a run.
type Report struct {
	Workload    Workload      `json:"workload"`
	Streams     int           `json:"streams"`
	OpenedIn    time.Duration `json:"openedIn"` // nanoseconds, until the last stream had its first event
	Took        time.Duration `json:"took"`     // nanoseconds, of what follows
	Publishes   int           `json:"publishes"`
	Refused     int           `json:"refused"` // publishes that were not answered with 2xx
	Deliveries  int           `json:"deliveries"`
	Ended       int           `json:"ended"` // streams that the server ended meanwhile
	Ack         Percentiles   `json:"ack"`   // from a publish's request to its answer
	Delay       Percentiles   `json:"delay"` // from a publish's request to its delivery; of one delivery in sixteen
	Measured    bool          `json:"measured"`
	CPU         time.Duration `json:"cpu"` // nanoseconds, the server's
	MemoryBytes int64         `json:"memoryBytes"`
	Dead        int           `json:"dead,omitempty"` // streams that never read
	// with dead streams: the memory that the system's TCP has taken meanwhile, for both ends of all
	// connections
	KernelBytes int64 `json:"kernelBytes,omitempty"`
}

// Percentiles are of durations, in nanoseconds.
type Percentiles struct {
	P50 time.Duration `json:"p50"`
	P90 time.Duration `json:"p90"`
	P99 time.Duration `json:"p99"`
	Max time.Duration `json:"max"`
}

func percentiles(d []time.Duration) (p Percentiles) {
	if len(d) == 0 {
		return p
	}
	slices.Sort(d)
	at := func(q float64) time.Duration { return d[min(int(q*float64(len(d))), len(d)-1)] }
	return Percentiles{at(0.5), at(0.9), at(0.99), d[len(d)-1]}
}

// String writes the report for people.
func (r Report) String() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	per := func(n int) float64 { return float64(n) / max(r.Took.Seconds(), 1e-9) }
	line("workload", "%s, %d streams", r.Workload, r.Streams)
	line("opened", "in %v, %.0f a second", r.OpenedIn.Round(time.Millisecond),
		float64(r.Streams)/max(r.OpenedIn.Seconds(), 1e-9))
	if r.Workload != Idle {
		line("publishes", "%d, %.0f a second, %d refused", r.Publishes, per(r.Publishes), r.Refused)
		line("deliveries", "%d, %.0f a second", r.Deliveries, per(r.Deliveries))
	}
	if r.Workload == FanOut || r.Workload == Own {
		line("acknowledged", "p50 %v, p90 %v, p99 %v, max %v", round(r.Ack.P50), round(r.Ack.P90), round(r.Ack.P99),
			round(r.Ack.Max))
		line("delivered", "p50 %v, p90 %v, p99 %v, max %v", round(r.Delay.P50), round(r.Delay.P90), round(r.Delay.P99),
			round(r.Delay.Max))
	}
	if r.Ended > 0 {
		line("ended", "%d streams ended meanwhile", r.Ended)
	}
	if r.Dead > 0 {
		line("dead", "%d streams never read; the kernel took %.0f KB more for each", r.Dead,
			float64(r.KernelBytes)/1000/float64(r.Dead))
	}
	if r.Measured {
		if r.Streams > 0 {
			line("memory", "%.2f KB more for each stream", float64(r.MemoryBytes)/1000/float64(r.Streams))
		}
		if r.Workload != Idle {
			line("CPU", "%v, %.0f %% of one processor, %.2f µs a delivery", r.CPU.Round(time.Millisecond),
				100*r.CPU.Seconds()/max(r.Took.Seconds(), 1e-9),
				float64(r.CPU.Microseconds())/float64(max(r.Deliveries, 1)))
		}
	}
	return b.String()
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// usage is the CPU time that a process has used, and its resident memory in bytes.
type usage struct {
	cpu    time.Duration
	memory int64
}

// usageOf reads /proc (proc(5)); false when it is not there.
func usageOf(pid int) (u usage, ok bool) {
	if pid <= 0 {
		return u, false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, false
	}
	// The second field, in parentheses, may hold spaces.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const userTime, systemTime, resident = 11, 12, 21
	if len(fields) <= resident {
		return u, false
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all of Linux's common machines
	for _, i := range []int{userTime, systemTime} {
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		u.cpu += time.Duration(n) * tick
	}
	pages, _ := strconv.ParseInt(fields[resident], 10, 64)
	u.memory = pages * int64(os.Getpagesize())
	return u, true
}

// kernelBytes is the memory that the system's TCP has taken (/proc/net/sockstat); 0 when it is not
// known.
func kernelBytes() int64 {
	b, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(b), "\n") {
		if _, mem, ok := strings.Cut(line, " mem "); ok && strings.HasPrefix(line, "TCP:") {
			pages, _ := strconv.ParseInt(strings.TrimSpace(mem), 10, 64)
			return pages * int64(os.Getpagesize())
		}
	}
	return 0
}
