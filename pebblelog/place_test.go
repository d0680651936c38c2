package pebblelog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// TestNewVolume: a log is begun, restored and imported in the topmost folder of a new volume, which
// is not quite empty; and not where there is anything else.
func TestNewVolume(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Options{Dir: filepath.Join(dir, "data")})
	put(t, l, "a", "x")
	backup := filepath.Join(dir, "backup")
	if _, err := l.Backup(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if _, err := Export(t.Context(), backup, nil, &text, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	ways := map[string]func(dir string) error{
		"restore": func(dir string) error { return Restore(backup, dir) },
		"import": func(dir string) error {
			_, err := Import(t.Context(), dir, strings.NewReader(text.String()))
			return err
		},
	}
	for name, way := range ways {
		volume := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Join(volume, "lost+found"), 0o700); err != nil {
			t.Fatal(err)
		}
		if name == "import" { // one that fails is not in the way of the next
			if _, err := Import(t.Context(), volume, strings.NewReader(text.String()[:text.Len()-1])); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(volume, "log")); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(volume, formatFile)); err != nil {
				t.Fatal(err)
			}
			if _, err := Import(t.Context(), volume, strings.NewReader(text.String()[:text.Len()/2])); err == nil {
				t.Fatal("half an export is imported")
			}
		}
		if err := way(volume); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if found, err := judge(vfs.Default, volume); err != nil || !found.tipFound || found.tip.durable != found.last {
			t.Errorf("%s: whether the log is whole cannot be told: %+v, %v", name, found, err)
		}
		again := openTest(t, Options{Dir: volume})
		if data := dataOf(t, again, fanfare.Query{Patterns: patternsOf(t, "a")}); len(data) != 1 {
			t.Errorf("%s: %q", name, data)
		}
		for _, there := range []string{"ticket.key", "log", formatFile} {
			other := filepath.Join(dir, name+there)
			if err := os.MkdirAll(filepath.Join(other, there), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := way(other); fanfare.CodeOf(err) != fanfare.CodeConflict || !strings.Contains(err.Error(), there) {
				t.Errorf("%s where there is %s: %v", name, there, err)
			}
			if names, err := os.ReadDir(other); err != nil || len(names) != 1 {
				t.Errorf("%s where there is %s has left %v, %v", name, there, names, err)
			}
		}
	}
}

// TestBackupIsNotInside the data directory, by whatever name.
func TestBackupIsNotInside(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	l := openTest(t, Options{Dir: data})
	for _, folder := range []string{"data/sub", "elsewhere"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"to-data": data, "to-sub": filepath.Join(data, "sub"),
		"elsewhere/relative": "../data", "to-link": filepath.Join(dir, "to-sub")} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	for _, folder := range []string{
		"data", "data/backup", "data/log/backup", "data/a/b/c", "data/../data/backup",
		"elsewhere/../data/backup", "data/./backup/.",
		"to-data/backup", "to-sub/backup", "to-link/a/backup", "elsewhere/relative/backup",
	} {
		for _, target := range []string{folder, dir + "/" + folder} {
			_, err := l.Backup(t.Context(), target)
			if fanfare.CodeOf(err) != fanfare.CodeInvalid ||
				!strings.Contains(err.Error(), "lies in the data directory") {
				t.Errorf("%s: %v", target, err)
			}
		}
	}
	for _, folder := range []string{"data-backup", "elsewhere/backup", "data/../backup", "a/data/backup"} {
		if _, err := l.Backup(t.Context(), folder); err != nil {
			t.Errorf("%s: %v", folder, err)
		}
	}
	if err := Restore("elsewhere/backup", "elsewhere/backup/log/new"); err == nil ||
		!strings.Contains(err.Error(), "lies in the backup") {
		t.Errorf("restored into the backup: %v", err)
	}
}

// TestLockError: only the error of a lock that another process holds says so. Tests of e2e try the
// real errors, with real users.
func TestLockError(t *testing.T) {
	open := func(errno syscall.Errno) error { return &fs.PathError{Op: "open", Path: "/d/LOCK", Err: errno} }
	for _, c := range []struct {
		err  error
		want string
		code fanfare.Code
	}{
		{syscall.EAGAIN, "in use", fanfare.CodeConflict},
		{errors.New("lock held by current process"), "in use", fanfare.CodeConflict},
		{open(syscall.EACCES), "open /d/LOCK: permission denied: it must be writable", ""},
		{open(syscall.EPERM), "open /d/LOCK: operation not permitted: it must be writable", ""},
		{open(syscall.EROFS), "open /d/LOCK: read-only file system", ""},
		{open(syscall.ENOSPC), "open /d/LOCK: no space left on device", ""},
		{syscall.ENOLCK, "cannot be locked: no locks available", ""},
	} {
		got := lockError("/d", c.err)
		if !strings.Contains(got.Error(), c.want) || !strings.Contains(got.Error(), "/d") ||
			(fanfare.CodeOf(got) == fanfare.CodeConflict) != (c.code != "") {
			t.Errorf("%v: %v, want %q", c.err, got, c.want)
		}
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, lockFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir}); err == nil || fanfare.CodeOf(err) == fanfare.CodeConflict {
		t.Errorf("the lock cannot be opened: %v", err)
	}
	mem := vfs.NewMem()
	openTest(t, Options{Dir: "data", FS: mem})
	if _, err := Open(Options{Dir: "data", FS: mem}); fanfare.CodeOf(err) != fanfare.CodeConflict {
		t.Errorf("a second one: %v", err)
	}
}
