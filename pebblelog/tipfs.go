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
// sees what really happens there, and when. What Pebble has done is true on disk
//
//   - of a MANIFEST, when the file is synced and the marker that names it stands in a synced
//     folder,
//   - of a new WAL, when it stands in a synced folder.
//
// Pebble deletes what a change has made obsolete only after that, and so after the change is in the
// TIP.
type tipFS struct {
	vfs.FS
	folder string
	warn   func(error)
	off    atomic.Bool // the store is another session's
	warned atomic.Bool // that the file cannot be written

	syncing sync.Mutex // held while the file is synced or closed; taken before mu

	mu     sync.Mutex // guards the fields below; a write to one page of memory happens under it
	tip    tip
	w      tipWriter
	behind bool             // there is something that is written and not synced
	named  uint64           // the MANIFEST of a marker whose place is not synced yet
	made   []uint64         // WALs whose places are not synced yet
	synced map[uint64]int64 // the bytes of MANIFESTs of this session
}

// newTipFS keeps the TIP of a store that was found with what t says.
//
// A store that goes over to DurabilityAsync says so before its first WAL is written, and one that
// goes back when no WAL is left that was synced by a timer.
func newTipFS(fs vfs.FS, folder string, t tip, warn func(error)) *tipFS {
	return &tipFS{FS: fs, folder: folder, warn: warn, tip: t, w: tipWriter{fs: fs, folder: folder},
		synced: map[uint64]int64{}}
}

// fileNumber is the number in the name of one of Pebble's files.
func fileNumber(text string) (uint64, bool) {
	num, err := strconv.ParseUint(text, 10, 64)
	return num, err == nil
}

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

// created remembers a file that is certain when its folder is synced.
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

// isMarker tells of the file whose name says which MANIFEST is in force.
func (fs *tipFS) isMarker(name string) bool {
	return strings.HasPrefix(fs.PathBase(name), "marker.manifest.") && fs.PathDir(name) == fs.folder
}

// removed forgets a WAL. It need not be written: a WAL is removed when the MANIFEST says that it is
// obsolete, and is not asked for then.
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

// folderSynced: what was created before is there to stay.
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

// begin says that a run has begun, and is synced.
func (fs *tipFS) begin(first fanfare.Position, lazy bool) {
	fs.mu.Lock()
	fs.tip.run, fs.tip.durable = first, first-1
	fs.tip.lazy, fs.tip.synced = lazy, first-1
	fs.mu.Unlock()
	fs.save()
}

// settle says that everything up to a position is synced, with DurabilityAsync.
func (fs *tipFS) settle(synced fanfare.Position) {
	fs.mu.Lock()
	changed := synced > fs.tip.synced
	fs.tip.synced = max(fs.tip.synced, synced)
	fs.mu.Unlock()
	if changed {
		fs.save()
	}
}

// reach says that everything up to a position is stored. It does not wait for the disk.
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

// tell warns of an error, once until all is well again. The log goes on: what the file says is
// older than it could be.
func (fs *tipFS) tell(err error) {
	if was := fs.warned.Swap(err != nil); err != nil && !was {
		fs.warn(err)
	}
}

func (fs *tipFS) save() {
	fs.mu.Lock()
	err := fs.writeLocked()
	fs.mu.Unlock()
	fs.tell(err)
	fs.sync()
}

// sync has on disk what is written.
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

// tipInterval is how old the durable position may be that a power cut leaves.
const tipInterval = time.Second

// syncLoop syncs the durable position.
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

// fence has the file left alone from now on.
func (fs *tipFS) fence() { fs.off.Store(true) }

func (fs *tipFS) close() {
	fs.sync()
	fs.syncing.Lock()
	defer fs.syncing.Unlock()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	_ = fs.w.close() // it is synced
}

// manifestFile is a MANIFEST that Pebble writes, from its beginning.
type manifestFile struct {
	vfs.File
	fs      *tipFS
	num     uint64
	written int64 // owned by the one who writes
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
