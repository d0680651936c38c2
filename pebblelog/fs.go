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
// It hides WAL errors from Pebble, which cannot handle them: when a full WAL cannot be closed,
// Pebble panics, and on the way unlocks a mutex that is not locked, which ends the process. So the
// first error of a WAL file fails the session (failed), and Pebble is told that the call succeeded.
// Groups that Pebble commits from then on never become visible, and are never acknowledged.
//
// After fence no file can be changed through it, so that a call which still runs in a failed store
// (a flush that hangs, for example) cannot touch a file that the successor uses. Writes of the
// failed store then go to a scratch file system in memory, so that its calls can end and it can be
// closed.
//
// With lazyWAL the session's timer syncs the WAL, instead of each commit.
//
// It has the methods of vfs.FS, and eight more that decide about WALs (wal.go): 28 in all.
type sessionFS struct {
	vfs.FS
	dir     string // of the store
	lazyWAL bool
	failed  func(error)  // called with the first error of a WAL file
	written func(int)    // called with the bytes of each write
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
		wals: walFiles{growing: map[*sessionFile]struct{}{}, most: spareLeast},
	}
}

// fence has no file changed through it from now on.
func (fs *sessionFS) fence() { fs.fenced.Store(true) }

// isWAL tells whether a file is a WAL of the store. A backup has such files too, but their errors
// concern the backup alone.
func (fs *sessionFS) isWAL(name string) bool {
	return strings.HasSuffix(name, ".log") && fs.PathDir(name) == fs.dir
}

// writable returns the file system for a change to name: the real one, or the scratch after fence.
func (fs *sessionFS) writable(name string) vfs.FS {
	if !fs.fenced.Load() {
		return fs.FS
	}
	_ = fs.scratch.MkdirAll(fs.PathDir(name), 0o750) // memory does not fail
	return fs.scratch
}

// readable returns the file system that name is read from.
func (fs *sessionFS) readable(name string) vfs.FS {
	if fs.fenced.Load() {
		if _, err := fs.scratch.Stat(name); err == nil {
			return fs.scratch
		}
	}
	return fs.FS
}

// made wraps a file for Pebble to write.
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

// ReuseForWrite makes a new file, because createWAL decides which WAL is written over.
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
	// A WAL that its directory does not name is lost, so the directory's errors count as a WAL's.
	return &sessionFile{File: f, fs: fs, wal: name == fs.dir}, nil
}

// change makes a change to the real file system. After fence it does nothing, and succeeds.
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

// Lock does nothing, because the Log holds the directory's lock across its sessions: a failed store
// that cannot be closed must not keep its successor out.
func (fs *sessionFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (fs *sessionFS) Unwrap() vfs.FS { return fs.FS }

// syncDirty syncs the WAL files that Pebble has asked to be synced since the last call. The timer
// calls it.
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
	wal  bool // errors fail the session, and are hidden from Pebble
	lazy bool // the timer syncs it

	mu     sync.Mutex // serialises a real sync and the close of a lazy file
	closed bool

	// These are used for a WAL file only.
	extent sync.Mutex // guards the fields below
	at     int64      // the end of the bytes that were written, or are being written
	room   int64      // the end of the room that is known to be allocated on disk
	steady bool       // no room is allocated beforehand, because the file system cannot or is full
}

// result returns the error that Pebble gets for err. A WAL's error fails the session, and Pebble
// gets nil.
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

// Close first syncs a file that the timer has yet to sync.
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
