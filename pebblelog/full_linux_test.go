package pebblelog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// inNamespace is set in a process that runs one test again in namespaces of its own.
const inNamespace = "PEBBLELOG_TEST_IN_NAMESPACE"

// onSmallDisk runs a test on a file system of its own in memory, of mib MiB. To mount one needs
// root, or a user namespace, in which the test runs again in a child. Without either the test is
// skipped.
func onSmallDisk(t *testing.T, mib int, test func(t *testing.T, disk string)) {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib))
	switch {
	case err == nil:
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		test(t, dir)
	case os.Getenv(inNamespace) != "":
		t.Skipf("no small disk here: mount in a user namespace: %v", err)
	default:
		runInNamespace(t, err)
	}
}

func runInNamespace(t *testing.T, cause error) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	child.Env = append(os.Environ(), inNamespace+"=1")
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Skipf("no small disk here: mount: %v; a user namespace: %v", cause, err)
	case err != nil:
		t.Fatalf("in a user namespace: %v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("no small disk here: mount: %v; in a user namespace: %s", cause, out)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name())):
		t.Fatalf("the test did not run in a user namespace: %s", out)
	}
}

// fill writes a file until leave bytes are free, or the disk is full.
func fill(t *testing.T, disk string, leave int64) string {
	t.Helper()
	name := filepath.Join(disk, "others")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for piece := make([]byte, 1<<20); len(piece) > 0; {
		free := freeOn(t, disk)
		if free <= leave {
			return name
		}
		if _, err := f.Write(piece[:min(int64(len(piece)), free-leave)]); errors.Is(err, syscall.ENOSPC) {
			piece = piece[:len(piece)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return name
}

func freeOn(t *testing.T, disk string) int64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(disk, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// TestDiskFullAndBack: a disk of 192 MiB with a few MB of events is filled by others and freed
// again, several times and to the last byte. The log says that there is no room while there is
// none, loses nothing, and takes publishes again by itself; what it has set aside is never what it
// waits for.
func TestDiskFullAndBack(t *testing.T) { onSmallDisk(t, 192, testDiskFullAndBack) }

func testDiskFullAndBack(t *testing.T, disk string) {
	t.Helper()
	o := Options{Dir: filepath.Join(disk, "data"), TrimInterval: 20 * time.Millisecond, SlowCommit: 5 * time.Second}
	l := openTest(t, o)
	var want []string
	publish := func(n int) {
		for range n {
			data := fmt.Sprint(len(want), strings.Repeat("z", 1000))
			put(t, l, "a", data)
			want = append(want, data)
		}
	}
	publish(5000)
	for round, leave := range []int64{0, 1 << 20, 0, 63 << 20} {
		others := fill(t, disk, leave)
		waitUntil(t, "the disk to be full", func() bool { return l.Status().Err != nil })
		for range 3 {
			err := tryPut(l, "a", "refused")
			if fanfare.CodeOf(err) != fanfare.CodeUnavailable || !strings.Contains(err.Error(), "min-free-bytes") {
				t.Fatalf("round %d: %v", round, err)
			}
			if err := l.Status().Err; err == nil || !strings.Contains(err.Error(), "min-free-bytes") {
				t.Fatalf("round %d: the status is %v", round, err)
			}
		}
		sum := l.upkeep.measure()
		if aside := l.Stats().SetAsideBytes; aside > 0 {
			t.Errorf("round %d: %d of %d bytes are set aside on a full disk", round, aside, sum)
		}
		if err := os.Remove(others); err != nil {
			t.Fatal(err)
		}
		fill(t, disk, o.MinFreeBytes+64<<20+4<<20) // room for what is published next, and no more
		waitUntil(t, "room", func() bool { return l.Status().Err == nil })
		publish(500)
		if err := os.Remove(others); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		got := dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "a")})
		if len(got) != len(want) {
			t.Fatalf("%d of %d events are there", len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("event %d is %.20s", i, got[i])
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = openTest(t, o)
	}
}

// TestOwnRoomIsEnough: the log's own set-aside is what the least free lacks. It is given back, and
// nothing is refused.
func TestOwnRoomIsEnough(t *testing.T) { onSmallDisk(t, 192, testOwnRoomIsEnough) }

func testOwnRoomIsEnough(t *testing.T, disk string) {
	t.Helper()
	l := openTest(t, Options{Dir: filepath.Join(disk, "data"), MaxBytes: 64 << 20, TrimInterval: time.Hour})
	fs := publishUntilSpare(t, l, 1<<20)
	fill(t, disk, 64<<20-512<<10)
	if err := tryPut(l, "a", "x"); err != nil {
		t.Errorf("%v, though %d bytes were set aside", err, fs.setAsideBytes())
	}
	if n := fs.setAsideBytes(); n > 0 {
		t.Errorf("%d bytes are still set aside", n)
	}
}

// TestOwnLogFillsTheDisk: a log that has filled its small disk by itself is full, says so, and goes
// on when it is allowed to remove something.
func TestOwnLogFillsTheDisk(t *testing.T) { onSmallDisk(t, 128, testOwnLogFillsTheDisk) }

func testOwnLogFillsTheDisk(t *testing.T, disk string) {
	t.Helper()
	l := openTest(t, Options{
		Dir: filepath.Join(disk, "data"), TrimInterval: 20 * time.Millisecond, Durability: DurabilityAsync,
	})
	data := noise(211)
	full := false
	for i := 0; i < 2_000_000 && !full; i += 200 {
		err := tryPutMany(l, "a", data[:200])
		full = err != nil
		if full && (fanfare.CodeOf(err) != fanfare.CodeUnavailable ||
			!strings.Contains(err.Error(), "min-free-bytes")) {
			t.Fatal(err)
		}
	}
	if !full {
		t.Fatal("the disk was never full")
	}
	l.SetMaxBytes(16 << 20)
	waitUntil(t, "room", func() bool { return l.Status().Err == nil && l.Stats().DiskBytes <= 16<<20 })
	if err := tryPut(l, "a", "x"); err != nil {
		t.Error(err)
	}
}
