package pebblelog

import (
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// sessionFS is the file system of one session.
//
// It keeps WAL errors from Pebble, which has no way to live with them: when a full WAL cannot be
// closed, Pebble panics under a mutex that it has let go of, and that ends the process. So the
// first error of a WAL file fails the session (failed), and Pebble is told that all is well; what
// it commits from then on is never made visible or acknowledged.
//
// After fence nothing can be changed through it, so that what is left of a failed store (a flush
// that hangs, say) cannot touch a file that its successor uses. What the store writes then goes to
// a scratch file system in memory, so that it can finish what it is about and be closed.
//
// With lazyWAL a sync of the WAL is put off to the session's timer.
//
// It has the methods of vfs.FS, and eight more that decide about WALs (wal.go): 28 in all.
type sessionFS struct {
	vfs.FS
	dir     string // of the store
	lazyWAL bool
	failed  func(error)  // told of the first error of a WAL file
	written func(int)    // told of the bytes of each write
	deleted func() int64 // see walMark
	fenced  atomic.Bool
	scratch *vfs.MemFS
	wals    walFiles

	mu    sync.Mutex
	dirty map[*sessionFile]struct{} // WAL files written since their last real sync
}

func newSessionFS(fs vfs.FS, dir string, lazyWAL bool) *sessionFS {
	return &sessionFS{
		FS: fs, dir: dir, lazyWAL: lazyWAL, scratch: vfs.NewMem(), dirty: map[*sessionFile]struct{}{},
		written: func(int) {}, deleted: func() int64 { return 0 },
		wals: walFiles{open: map[*sessionFile]struct{}{}, most: spareLeast},
	}
}

func (fs *sessionFS) fence() { fs.fenced.Store(true) }

// isWAL tells of a WAL file of the store; a backup has such files too, whose errors are the
// backup's alone.
func (fs *sessionFS) isWAL(name string) bool {
	return strings.HasSuffix(name, ".log") && fs.PathDir(name) == fs.dir
}

// writable is where a change to name goes: the real file system, or, after fence, the scratch.
func (fs *sessionFS) writable(name string) vfs.FS {
	if !fs.fenced.Load() {
		return fs.FS
	}
	_ = fs.scratch.MkdirAll(fs.PathDir(name), 0o750) // memory does not fail
	return fs.scratch
}

// readable is where name is read from.
func (fs *sessionFS) readable(name string) vfs.FS {
	if fs.fenced.Load() {
		if _, err := fs.scratch.Stat(name); err == nil {
			return fs.scratch
		}
	}
	return fs.FS
}

// made wraps a file that Pebble will write.
func (fs *sessionFS) made(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &sessionFile{File: f, fs: fs}, nil
}

func (fs *sessionFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if fs.isWAL(name) {
		return fs.createWAL(name, c)
	}
	f, err := fs.writable(name).Create(name, c)
	return fs.made(f, err)
}

func (fs *sessionFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.writable(name).OpenReadWrite(name, c, opts...)
	return fs.made(f, err)
}

// ReuseForWrite makes a new file: which WAL is written over is decided by createWAL.
func (fs *sessionFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.Remove(oldname); err != nil {
		return nil, err
	}
	return fs.Create(newname, c)
}

func (fs *sessionFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return fs.readable(name).Open(name, opts...)
}

func (fs *sessionFS) Stat(name string) (vfs.FileInfo, error) { return fs.readable(name).Stat(name) }

func (fs *sessionFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	// The WAL's directory entries are as good as its bytes.
	return &sessionFile{File: f, fs: fs, wal: name == fs.dir}, nil
}

// change makes a change to the real file system; after fence it only seems to.
func (fs *sessionFS) change(f func() error) error {
	if fs.fenced.Load() {
		return nil
	}
	return f()
}

func (fs *sessionFS) Link(oldname, newname string) error {
	return fs.change(func() error { return fs.FS.Link(oldname, newname) })
}

func (fs *sessionFS) Remove(name string) error {
	return fs.change(func() error { return fs.FS.Remove(name) })
}

func (fs *sessionFS) RemoveAll(name string) error {
	return fs.change(func() error { return fs.FS.RemoveAll(name) })
}

func (fs *sessionFS) Rename(oldname, newname string) error {
	if _, err := fs.scratch.Stat(oldname); err == nil {
		return fs.scratch.Rename(oldname, newname)
	}
	return fs.change(func() error { return fs.FS.Rename(oldname, newname) })
}

func (fs *sessionFS) MkdirAll(dir string, perm os.FileMode) error {
	return fs.change(func() error { return fs.FS.MkdirAll(dir, perm) })
}

// Lock does nothing: the Log holds the directory's lock across its sessions, and a failed store
// that cannot be closed must not keep its successor out.
func (fs *sessionFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (fs *sessionFS) Unwrap() vfs.FS { return fs.FS }

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

// sessionFile is a file that Pebble writes, or a directory that it syncs.
type sessionFile struct {
	vfs.File
	fs   *sessionFS
	wal  bool // errors fail the session instead of Pebble
	lazy bool // syncs are the timer's

	mu     sync.Mutex // serialises a real sync and the close of a lazy file
	closed bool

	// Of a WAL file.
	extent sync.Mutex // guards the fields below
	at     int64      // the end of what was written, or is being written
	room   int64      // the end of its room on disk, as far as that is known
	steady bool       // nothing is allocated beforehand, because the file system cannot or is full
}

// result is what Pebble is told of an error.
func (f *sessionFile) result(err error) error {
	if err == nil || !f.wal {
		return err
	}
	f.fs.failed(err)
	return nil
}

func (f *sessionFile) Write(p []byte) (int, error) {
	if f.fs.fenced.Load() {
		return len(p), nil
	}
	if f.wal {
		f.reserve(len(p))
	}
	n, err := f.File.Write(p)
	f.fs.written(n)
	if f.wal {
		f.fs.wals.written.Add(uint64(n))
	}
	if err != nil && f.result(err) == nil {
		return len(p), nil
	}
	return n, err
}

func (f *sessionFile) WriteAt(p []byte, off int64) (int, error) {
	if f.fs.fenced.Load() {
		return len(p), nil
	}
	n, err := f.File.WriteAt(p, off)
	f.fs.written(n)
	return n, err
}

// Preallocate does nothing for a WAL: see reserve.
func (f *sessionFile) Preallocate(offset, length int64) error {
	if f.wal || f.fs.fenced.Load() {
		return nil
	}
	return f.File.Preallocate(offset, length)
}

func (f *sessionFile) Sync() error { return f.sync(f.File.Sync) }

func (f *sessionFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *sessionFile) sync(now func() error) error {
	if f.fs.fenced.Load() {
		return nil
	}
	if !f.lazy {
		return f.result(now())
	}
	f.fs.mu.Lock()
	f.fs.dirty[f] = struct{}{}
	f.fs.mu.Unlock()
	return nil
}

func (f *sessionFile) SyncTo(length int64) (bool, error) {
	if f.fs.fenced.Load() || f.lazy {
		return false, nil
	}
	full, err := f.File.SyncTo(length)
	return full, f.result(err)
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
	if f.wal {
		f.leave()
	}
	if f.lazy {
		f.fs.mu.Lock()
		_, dirty := f.fs.dirty[f]
		delete(f.fs.dirty, f)
		f.fs.mu.Unlock()
		if dirty && !f.fs.fenced.Load() {
			if err := f.syncNow(); err != nil {
				f.fs.failed(err)
			}
		}
		f.mu.Lock()
		f.closed = true
		f.mu.Unlock()
	}
	return f.result(f.File.Close())
}
