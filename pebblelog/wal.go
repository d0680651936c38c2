package pebblelog

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The session decides how much room on disk WALs take.
//
// A WAL is obsolete once its events are in tables. The next WAL is a new file, or an obsolete one
// that is written over. Writing over is faster, because an fsync of blocks that were written before
// needs no write of the file system's metadata (ext4: 98 µs instead of 133 for records of 300
// bytes, 105 instead of 190 for 40 KB).
//
// Pebble would keep up to three obsolete WALs, and allocate room for a whole memtable for each new
// one: 71 MB each, however few the events are. So the session has Pebble hand over every obsolete
// WAL (cleaner), and allocate nothing (sessionFile.Preallocate). The session keeps one obsolete
// WAL, the spare, if the rate of publishes calls for one of that size (follow), and allocates in
// small steps (reserve). It gives all this room back to a disk that is nearly full (yield).

const (
	// At most walStep is allocated beyond the end of the written bytes, and walStepLeast at first.
	walStep      = 4 << 20
	walStepLeast = 256 << 10

	// A spare of spareLeast may be kept on a hub that hardly publishes, so that the first events
	// after a quiet time are stored as fast as all others. That is little beside the 100 MB that a
	// log may take beyond twice its events.
	spareLeast = 16 << 20
)

// walFiles are the WAL files of one session.
type walFiles struct {
	mu      sync.Mutex                // guards the fields below
	marks   []walMark                 // one for each WAL of this session that is not obsolete, oldest first
	growing map[*sessionFile]struct{} // WALs that are being written
	drops   string                    // the WAL with the newest deletion of a range of events
	spare   spare
	most    int64         // the most bytes of the spare, and of the unused room of a growing WAL
	yielded atomic.Bool   // no room may be set aside at present; changed under mu
	written atomic.Uint64 // bytes written to all WALs; not guarded
}

// walMark is a WAL, and the number of deletions by the sweep before the WAL was created. Deletions
// since the oldest WAL was created may still be in memory, where no figure of the store counts
// them.
type walMark struct {
	name    string
	deleted int64
}

// spare is an obsolete WAL that is kept to be written over; the zero value is none.
type spare struct {
	name  string
	bytes int64 // on disk
}

// cleaner gets each file that the store no longer needs. Pebble hands over all obsolete WALs only
// to a cleaner that says, by a private method, that it needs their contents; a type can have that
// method only if it embeds ArchiveCleaner. T is the type of a file's kind, which has no public
// name.
type cleaner[T any] struct {
	pebble.ArchiveCleaner
	fs *sessionFS
}

func newCleaner[T any](fs *sessionFS, _ func(pebble.Cleaner, vfs.FS, T, string) error) cleaner[T] {
	return cleaner[T]{fs: fs}
}

// Clean implements pebble.Cleaner.
func (c cleaner[T]) Clean(_ vfs.FS, _ T, name string) error {
	if c.fs.isWAL(name) {
		return c.fs.setAside(name)
	}
	return c.fs.Remove(name)
}

// String is the cleaner's name in Pebble's OPTIONS file.
func (cleaner[T]) String() string { return pebble.DeleteCleaner{}.String() }

// dropped notes that a range of events was deleted just now.
func (fs *sessionFS) dropped() {
	w := &fs.wals
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.marks) > 0 {
		w.drops = w.marks[len(w.marks)-1].name
	}
}

// dropsInMemory tells whether the newest deletion of a range of events is still only in memory and
// in a WAL.
func (fs *sessionFS) dropsInMemory() bool {
	w := &fs.wals
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.marks, func(m walMark) bool { return m.name == w.drops })
}

// setAside keeps an obsolete WAL as the spare, or removes it. If there is a spare, it keeps the
// larger of the two.
func (fs *sessionFS) setAside(name string) error {
	size := int64(0)
	if info, err := fs.FS.Stat(name); err == nil {
		size = allocatedBytes(info)
	}
	w := &fs.wals
	w.mu.Lock()
	i := slices.IndexFunc(w.marks, func(m walMark) bool { return m.name == name })
	ours := i >= 0
	w.marks = w.marks[i+1:]
	obsolete := name
	if ours && !w.yielded.Load() && !fs.fenced.Load() && size > w.spare.bytes && size <= w.most {
		obsolete = w.spare.name
		w.spare = spare{name, size}
	}
	w.mu.Unlock()
	if obsolete == "" {
		return nil
	}
	return fs.Remove(obsolete)
}

// createWAL makes a WAL file, from the spare if there is one. On an error it fails the session, and
// gives Pebble a scratch file.
func (fs *sessionFS) createWAL(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	w := &fs.wals
	w.mu.Lock()
	old := w.spare
	w.spare = spare{}
	w.marks = append(w.marks, walMark{name, fs.deleted()})
	w.mu.Unlock()
	var f vfs.File
	err := vfs.ErrUnsupported
	if old.name != "" && !fs.fenced.Load() {
		f, err = fs.FS.ReuseForWrite(old.name, name, c)
	}
	if err != nil {
		old.bytes = 0
		f, err = fs.writable(name).Create(name, c)
	}
	if err != nil {
		fs.failed(err)
		f, err = fs.writable(name).Create(name, c)
	}
	if err != nil {
		return nil, err
	}
	s := &sessionFile{File: f, fs: fs, wal: true, lazy: fs.lazyWAL, room: old.bytes}
	w.mu.Lock()
	w.growing[s] = struct{}{}
	w.mu.Unlock()
	return s, nil
}

// follow sets the most bytes of the spare, and of the unused room of a growing WAL. It gives back
// room that exceeds them.
func (fs *sessionFS) follow(most int64) {
	w := &fs.wals
	w.mu.Lock()
	if !w.yielded.Load() {
		w.most = most
	}
	w.mu.Unlock()
	if !fs.fenced.Load() {
		fs.giveBack()
	}
}

// yield gives back all room that is set aside, and has none set aside until it is called with
// false. It reports whether room was given back. It works after fence too, because a successor
// cannot use the room of its predecessor.
func (fs *sessionFS) yield(on bool) bool {
	w := &fs.wals
	w.mu.Lock()
	if changed := w.yielded.Swap(on) != on; on {
		w.most = 0
	} else if changed {
		w.most = spareLeast
	}
	w.mu.Unlock()
	if !on || fs.setAsideBytes() == 0 {
		return false
	}
	fs.giveBack()
	return true
}

// giveBack removes the spare, and the unused room of growing WALs, if they are larger than most.
func (fs *sessionFS) giveBack() {
	w := &fs.wals
	w.mu.Lock()
	most, old := w.most, spare{}
	if w.spare.bytes > most {
		old, w.spare = w.spare, old
	}
	files := slices.Collect(maps.Keys(w.growing))
	w.mu.Unlock()
	if old.name != "" {
		_ = fs.FS.Remove(old.name) // after an error the next open removes it
	}
	for _, f := range files {
		f.shrink(most)
	}
}

// setAsideBytes returns the bytes that are set aside: the spare, and the unused room of the growing
// WAL.
func (fs *sessionFS) setAsideBytes() int64 {
	w := &fs.wals
	w.mu.Lock()
	sum := w.spare.bytes
	files := slices.Collect(maps.Keys(w.growing))
	w.mu.Unlock()
	for _, f := range files {
		f.extent.Lock()
		sum += max(f.room-f.at, 0)
		f.extent.Unlock()
	}
	return sum
}

// reserve allocates room on disk for the next n bytes of a WAL, in steps, so that the file lies in
// few pieces. An error is left to the write that follows.
func (f *sessionFile) reserve(n int) {
	f.extent.Lock()
	defer f.extent.Unlock()
	f.at += int64(n)
	if f.at <= f.room || f.steady || f.fs.wals.yielded.Load() {
		return
	}
	step := min(max(f.at, walStepLeast), walStep)
	if f.Fd() == vfs.InvalidFd || f.File.Preallocate(f.room, f.at+step-f.room) != nil {
		f.steady = true
		return
	}
	f.room = f.at + step
}

// shrink frees the unused room of a WAL, if it is more than most bytes. The lock keeps writers out
// of that room meanwhile.
func (f *sessionFile) shrink(most int64) {
	f.extent.Lock()
	defer f.extent.Unlock()
	if f.room-f.at > most && truncate(f.File, f.at) == nil {
		f.room = f.at
	}
}

// leave forgets a WAL that is about to be closed, so that it is not shrunk any more.
func (f *sessionFile) leave() {
	w := &f.fs.wals
	w.mu.Lock()
	delete(w.growing, f)
	w.mu.Unlock()
	f.extent.Lock()
	f.room = 0
	f.extent.Unlock()
}
