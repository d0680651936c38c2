package pebblelog

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var errFenced = errors.New("this opening of the log has failed and may not write any more")

// sessionFS is the file system of one session. After fence nothing can be changed through it, so that what is left of a
// failed store (a flush that hangs, say) cannot touch a file that its successor uses. With lazyWAL a sync of the WAL is
// put off to the session's timer.
type sessionFS struct {
	vfs.FS
	lazyWAL bool
	fenced  atomic.Bool

	mu    sync.Mutex
	dirty map[*sessionFile]struct{} // WAL files written since their last real sync
}

func newSessionFS(fs vfs.FS, lazyWAL bool) *sessionFS {
	return &sessionFS{FS: fs, lazyWAL: lazyWAL, dirty: map[*sessionFile]struct{}{}}
}

func (fs *sessionFS) fence() { fs.fenced.Store(true) }

// check refuses when fenced, slowly: Pebble repeats a failed flush at once and without end.
func (fs *sessionFS) check() error {
	if fs.fenced.Load() {
		time.Sleep(20 * time.Millisecond)
		return errFenced
	}
	return nil
}

// syncDirty is the timer's work: it really syncs the WAL files that only seemed to be.
func (fs *sessionFS) syncDirty() error {
	fs.mu.Lock()
	files := make([]*sessionFile, 0, len(fs.dirty))
	for f := range fs.dirty {
		files = append(files, f)
	}
	clear(fs.dirty)
	fs.mu.Unlock()
	var first error
	for _, f := range files {
		if err := f.syncNow(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (fs *sessionFS) wrap(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &sessionFile{File: f, fs: fs, lazy: fs.lazyWAL && strings.HasSuffix(name, ".log")}, nil
}

func (fs *sessionFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.check(); err != nil {
		return nil, err
	}
	f, err := fs.FS.Create(name, c)
	return fs.wrap(name, f, err)
}

func (fs *sessionFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := fs.check(); err != nil {
		return nil, err
	}
	f, err := fs.FS.OpenReadWrite(name, c, opts...)
	return fs.wrap(name, f, err)
}

func (fs *sessionFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.check(); err != nil {
		return nil, err
	}
	f, err := fs.FS.ReuseForWrite(oldname, newname, c)
	return fs.wrap(newname, f, err)
}

func (fs *sessionFS) Link(oldname, newname string) error {
	if err := fs.check(); err != nil {
		return err
	}
	return fs.FS.Link(oldname, newname)
}

func (fs *sessionFS) Remove(name string) error {
	if err := fs.check(); err != nil {
		return err
	}
	return fs.FS.Remove(name)
}

func (fs *sessionFS) RemoveAll(name string) error {
	if err := fs.check(); err != nil {
		return err
	}
	return fs.FS.RemoveAll(name)
}

func (fs *sessionFS) Rename(oldname, newname string) error {
	if err := fs.check(); err != nil {
		return err
	}
	return fs.FS.Rename(oldname, newname)
}

func (fs *sessionFS) MkdirAll(dir string, perm os.FileMode) error {
	if err := fs.check(); err != nil {
		return err
	}
	return fs.FS.MkdirAll(dir, perm)
}

// Lock does nothing: the Log holds the directory's lock across its sessions, and a failed store that cannot be closed
// must not keep its successor out.
func (fs *sessionFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (fs *sessionFS) Unwrap() vfs.FS { return fs.FS }

type sessionFile struct {
	vfs.File
	fs   *sessionFS
	lazy bool

	mu     sync.Mutex // serialises a real sync and the close of a lazy file
	closed bool
}

func (f *sessionFile) Write(p []byte) (int, error) {
	if err := f.fs.check(); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *sessionFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.check(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *sessionFile) Sync() error { return f.sync(f.File.Sync) }

func (f *sessionFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *sessionFile) sync(now func() error) error {
	if err := f.fs.check(); err != nil {
		return err
	}
	if !f.lazy {
		return now()
	}
	f.fs.mu.Lock()
	f.fs.dirty[f] = struct{}{}
	f.fs.mu.Unlock()
	return nil
}

func (f *sessionFile) SyncTo(length int64) (bool, error) {
	if err := f.fs.check(); err != nil || f.lazy {
		return false, err
	}
	return f.File.SyncTo(length)
}

func (f *sessionFile) syncNow() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	return f.File.SyncData()
}

// Close really syncs what was put off before it closes the file.
func (f *sessionFile) Close() error {
	if !f.lazy {
		return f.File.Close()
	}
	f.fs.mu.Lock()
	_, dirty := f.fs.dirty[f]
	delete(f.fs.dirty, f)
	f.fs.mu.Unlock()
	var err error
	if dirty && !f.fs.fenced.Load() {
		err = f.syncNow()
	}
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	return errors.Join(err, f.File.Close())
}
