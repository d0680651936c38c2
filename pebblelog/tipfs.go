package pebblelog

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// tipFS keeps the TIP of one session's store. It stands between sessionFS and the disk, so that it
// sees each real change of the disk. A change by Pebble is true on disk
//
//   - for a MANIFEST, when the file is synced, and the folder is synced after the marker that names
//     the file was created,
//   - for a new WAL, when the folder is synced after the WAL was created.
//
// Pebble deletes the files that a change has made obsolete only after that, and so after the change
// is in the TIP.
type tipFS struct {
	vfs.FS
	folder string
	warn   func(error)
	off    atomic.Bool // fence was called: the file is no longer written
	warned atomic.Bool // warn was called: the file cannot be written

	syncing sync.Mutex // held while the file is synced or closed; taken before mu

	mu     sync.Mutex // guards the fields below; a write to one page of memory happens under it
	tip    tip
	w      tipWriter
	behind bool             // a write to the file is not synced yet
	named  uint64           // the MANIFEST of the newest marker
	made   []uint64         // WALs that were created since the folder was last synced
	synced map[uint64]int64 // the synced bytes of this session's MANIFESTs, by number
}

// newTipFS returns the keeper of the TIP of a store that holds what t says.
//
// t.lazy changes in two ways. A store that changes to DurabilityAsync has it in the TIP before its
// first WAL is written; a store that changes back has it until there is no WAL left that a timer
// synced.
func newTipFS(fs vfs.FS, folder string, t tip, warn func(error)) *tipFS {
	return &tipFS{FS: fs, folder: folder, warn: warn, tip: t, w: tipWriter{fs: fs, folder: folder},
		synced: map[uint64]int64{}}
}

// fileNumber reads the number in the name of one of Pebble's files.
func fileNumber(text string) (uint64, bool) {
	num, err := strconv.ParseUint(text, 10, 64)
	return num, err == nil
}

// number returns the number of a file of the store's folder with such a name; false for other
// files.
func (fs *tipFS) number(name, prefix, suffix string) (uint64, bool) {
	if fs.PathDir(name) != fs.folder {
		return 0, false
	}
	base, ok := strings.CutPrefix(fs.PathBase(name), prefix)
	if !ok {
		return 0, false
	}
	if base, ok = strings.CutSuffix(base, suffix); !ok {
		return 0, false
	}
	return fileNumber(base)
}

func (fs *tipFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if fs.isMarker(name) {
		// Pebble syncs the folder after this. A power cut before that may keep the marker, and not
		// the new MANIFEST.
		if err := syncDir(fs.FS, fs.folder); err != nil {
			return nil, err
		}
	}
	f, err := fs.FS.Create(name, c)
	if err != nil {
		return nil, err
	}
	if num, ok := fs.number(name, "MANIFEST-", ""); ok {
		return &manifestFile{File: f, fs: fs, num: num}, nil
	}
	fs.created(name)
	return f, nil
}

func (fs *tipFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	fs.removed(oldname)
	f, err := fs.FS.ReuseForWrite(oldname, newname, c)
	if err == nil {
		fs.created(newname)
	}
	return f, err
}

func (fs *tipFS) Remove(name string) error {
	fs.removed(name)
	return fs.FS.Remove(name)
}

func (fs *tipFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil || name != fs.folder {
		return f, err
	}
	return &tipFolder{File: f, fs: fs}, nil
}

func (fs *tipFS) Unwrap() vfs.FS { return fs.FS }

// created remembers a WAL or a marker, whose entry is on disk when the folder is synced.
func (fs *tipFS) created(name string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if num, ok := fs.number(name, "", ".log"); ok {
		fs.made = append(fs.made, num)
	}
	if fs.isMarker(name) {
		_, num, _ := strings.Cut(name, ".MANIFEST-")
		fs.named, _ = fileNumber(num)
	}
}

// isMarker tells whether a file is the one whose name says which MANIFEST is in force.
func (fs *tipFS) isMarker(name string) bool {
	return strings.HasPrefix(fs.PathBase(name), "marker.manifest.") && fs.PathDir(name) == fs.folder
}

// removed forgets a WAL. The TIP need not be written for that, because the judge does not ask for a
// WAL that is obsolete by the MANIFEST.
func (fs *tipFS) removed(name string) {
	num, ok := fs.number(name, "", ".log")
	if !ok {
		return
	}
	is := func(other uint64) bool { return other == num }
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.made = slices.DeleteFunc(fs.made, is)
	fs.tip.wals = slices.DeleteFunc(fs.tip.wals, is)
}

// folderSynced notes that the folder was synced after a marker and some WALs were created.
func (fs *tipFS) folderSynced(named uint64, made []uint64) {
	fs.mu.Lock()
	changed := false
	for _, num := range made {
		if i := slices.Index(fs.made, num); i >= 0 {
			fs.made = slices.Delete(fs.made, i, i+1)
			fs.tip.wals = append(fs.tip.wals, num)
			changed = true
		}
	}
	if named != 0 && named != fs.tip.manifest {
		fs.tip.manifest, fs.tip.manifestBytes = named, fs.synced[named]
		changed = true
	}
	fs.mu.Unlock()
	if changed {
		fs.save()
	}
}

// manifestSynced notes that a MANIFEST was synced up to a size.
func (fs *tipFS) manifestSynced(num uint64, size int64) {
	fs.mu.Lock()
	fs.synced[num] = size
	current := fs.tip.manifest == num
	if current {
		fs.tip.manifestBytes = size
	}
	fs.mu.Unlock()
	if current {
		fs.save()
	}
}

// begin notes that a run has begun, and is synced.
func (fs *tipFS) begin(first fanfare.Position, lazy bool) {
	fs.mu.Lock()
	fs.tip.run, fs.tip.durable = first, first-1
	fs.tip.lazy, fs.tip.synced = lazy, first-1
	fs.mu.Unlock()
	fs.save()
}

// settle notes that all events up to a position are synced, with DurabilityAsync.
func (fs *tipFS) settle(synced fanfare.Position) {
	fs.mu.Lock()
	changed := synced > fs.tip.synced
	fs.tip.synced = max(fs.tip.synced, synced)
	fs.mu.Unlock()
	if changed {
		fs.save()
	}
}

// reach notes that all events up to a position are stored. It does not wait for the disk.
func (fs *tipFS) reach(durable fanfare.Position) {
	fs.mu.Lock()
	var err error
	if durable > fs.tip.durable {
		fs.tip.durable = durable
		err = fs.writeLocked()
	}
	fs.mu.Unlock()
	fs.tell(err)
}

func (fs *tipFS) writeLocked() error {
	if fs.off.Load() {
		return nil
	}
	err := fs.w.write(&fs.tip)
	fs.behind = fs.behind || err == nil
	return err
}

// tell warns of an error, once until a write succeeds again. The log goes on; the TIP is only older
// than it could be.
func (fs *tipFS) tell(err error) {
	if was := fs.warned.Swap(err != nil); err != nil && !was {
		fs.warn(err)
	}
}

// save writes the TIP, and syncs it.
func (fs *tipFS) save() {
	fs.mu.Lock()
	err := fs.writeLocked()
	fs.mu.Unlock()
	fs.tell(err)
	fs.sync()
}

// sync syncs the TIP.
func (fs *tipFS) sync() {
	fs.syncing.Lock()
	defer fs.syncing.Unlock()
	fs.mu.Lock()
	w, behind := fs.w, fs.behind
	fs.behind = false
	fs.mu.Unlock()
	if behind && !fs.off.Load() {
		fs.tell(w.sync())
	}
}

// tipInterval is the greatest age of the durable position in the TIP after a power cut.
const tipInterval = time.Second

// syncLoop syncs the TIP at each tipInterval.
func (fs *tipFS) syncLoop(dead, stop <-chan struct{}) {
	tick := time.NewTicker(tipInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			fs.sync()
		case <-dead:
			return
		case <-stop:
			return
		}
	}
}

// fence has the file not written any more.
func (fs *tipFS) fence() { fs.off.Store(true) }

func (fs *tipFS) close() {
	fs.sync()
	fs.syncing.Lock()
	defer fs.syncing.Unlock()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	_ = fs.w.close() // the file is synced, so an error loses nothing
}

// manifestFile is a MANIFEST that Pebble writes, from its start on.
type manifestFile struct {
	vfs.File
	fs      *tipFS
	num     uint64
	written int64 // owned by the goroutine that writes
}

func (f *manifestFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.written += int64(n)
	return n, err
}

func (f *manifestFile) Sync() error {
	err := f.File.Sync()
	if err == nil {
		f.fs.manifestSynced(f.num, f.written)
	}
	return err
}

func (f *manifestFile) SyncData() error {
	err := f.File.SyncData()
	if err == nil {
		f.fs.manifestSynced(f.num, f.written)
	}
	return err
}

// tipFolder is the store's folder, opened to be synced.
type tipFolder struct {
	vfs.File
	fs *tipFS
}

func (f *tipFolder) Sync() error {
	f.fs.mu.Lock()
	named, made := f.fs.named, slices.Clone(f.fs.made)
	f.fs.mu.Unlock()
	err := f.File.Sync()
	if err == nil {
		f.fs.folderSynced(named, made)
	}
	return err
}
