package pebblelog

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// What a log must hold at the least.
//
// A store that has lost its newest part is a whole store of an earlier time: Pebble takes the end
// of a cut MANIFEST, or of a cut WAL, for the place where the machine once stopped. It opens, shows
// less than was acknowledged, and deletes what it no longer knows. Nothing inside the store can
// tell.
//
// So the file log/TIP says, beside the store, how far the store had come: the newest run, the
// durable position, how long the MANIFEST was, and which WALs there were. It is written behind the
// store: a fact stands in it only when it is true on disk. A TIP that is older than the store, or
// missing, is therefore harmless. A store that holds less than its TIP says has been damaged
// (judge.go).
//
// The durable position is written before a group is acknowledged, without an fsync: that survives
// kill -9, and costs a write of one page in memory. Within a second it is synced, for power cuts.
// The rest changes when a table is written, and is synced at once.

const (
	tipFile   = "TIP"
	tipFormat = "fanfare tip 1"

	// The file has two slots, which are written in turn: a write that is torn leaves the other one.
	tipSlotBytes = 4096
	tipSlots     = 2
)

// tip is what a log must hold at the least. The zero value demands nothing.
type tip struct {
	count         uint64           // of writes: the slot with the higher one is newer
	run           fanfare.Position // where the newest run begins
	durable       fanfare.Position // everything up to here was stored
	manifest      uint64           // the number of the MANIFEST that was in force; 0: none
	manifestBytes int64            // and how much of it
	wals          []uint64         // numbers of WALs that were there, in order

	// With DurabilityAsync the WAL is synced by a timer, and a power cut may leave any of what was
	// written since.
	lazy   bool
	synced fanfare.Position // everything up to here was synced
}

var tipTable = crc32.MakeTable(crc32.Castagnoli)

// append adds the text of a slot. It is read by people too.
func (t *tip) append(dst []byte) []byte {
	from := len(dst)
	dst = append(dst, tipFormat...)
	dst = append(dst, "\ncount "...)
	dst = strconv.AppendUint(dst, t.count, 10)
	dst = append(dst, "\nrun "...)
	dst = t.run.Append(dst)
	dst = append(dst, "\ndurable "...)
	dst = t.durable.Append(dst)
	dst = append(dst, "\nmanifest "...)
	dst = strconv.AppendUint(dst, t.manifest, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, t.manifestBytes, 10)
	if t.lazy {
		dst = append(dst, "\nsynced "...)
		dst = t.synced.Append(dst)
	}
	for _, num := range t.wals[max(len(t.wals)-tipMostWALs, 0):] {
		dst = append(dst, "\nwal "...)
		dst = strconv.AppendUint(dst, num, 10)
	}
	dst = append(dst, "\nsum "...)
	sum := crc32.Checksum(dst[from:], tipTable)
	return append(strconv.AppendUint(dst, uint64(sum), 16), '\n')
}

// tipMostWALs is more than there ever are; the slot has room for them.
const tipMostWALs = 128

// parseTip reads a slot.
func parseTip(slot []byte) (t tip, err error) {
	body, sum, ok := bytes.Cut(slot, []byte("\nsum "))
	if !ok || !bytes.HasPrefix(body, []byte(tipFormat+"\n")) {
		return t, errCorrupt
	}
	sum, _, ok = bytes.Cut(sum, []byte("\n"))
	if want, err := strconv.ParseUint(string(sum), 16, 32); !ok || err != nil ||
		crc32.Checksum(slot[:len(body)+len("\nsum ")], tipTable) != uint32(want) {
		return t, errCorrupt
	}
	for _, line := range strings.Split(string(body), "\n")[1:] {
		key, value, _ := strings.Cut(line, " ")
		if err := t.set(key, value); err != nil {
			return tip{}, err
		}
	}
	return t, nil
}

func (t *tip) set(key, value string) (err error) {
	switch key {
	case "count":
		t.count, err = strconv.ParseUint(value, 10, 64)
	case "run":
		t.run, err = fanfare.ParsePosition(value)
	case "durable":
		t.durable, err = fanfare.ParsePosition(value)
	case "synced":
		t.lazy = true
		t.synced, err = fanfare.ParsePosition(value)
	case "manifest":
		_, err = fmt.Sscanf(value, "%d %d", &t.manifest, &t.manifestBytes)
	case "wal":
		var num uint64
		num, err = strconv.ParseUint(value, 10, 64)
		t.wals = append(t.wals, num)
	}
	return err
}

// readTip reads the newest whole slot of a store's TIP. A store without one has os.ErrNotExist;
// without a whole slot, errCorrupt.
func readTip(fs vfs.FS, folder string) (t tip, err error) {
	b, err := readFile(fs, fs.PathJoin(folder, tipFile))
	if err != nil {
		return t, err
	}
	err = errCorrupt
	for slot := range slices.Chunk(b, tipSlotBytes) {
		if other, e := parseTip(slot); e == nil && (err != nil || other.count > t.count) {
			t, err = other, nil
		}
	}
	return t, err
}

// readFile reads a small file.
func readFile(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// tipWriter writes a store's TIP. Its owner serialises the calls.
type tipWriter struct {
	fs     vfs.FS
	folder string
	f      vfs.File
	b      []byte
}

// write writes t into the older slot, and counts it.
func (w *tipWriter) write(t *tip) error {
	if w.f == nil {
		if err := w.open(); err != nil {
			return err
		}
	}
	t.count++
	w.b = t.append(w.b[:0])
	_, err := w.f.WriteAt(w.b, int64(t.count%tipSlots)*tipSlotBytes)
	return err
}

// open opens the file. A new one gets its full size, so that a write needs no room on a full disk,
// and a place in the folder that survives a power cut.
func (w *tipWriter) open() error {
	name := w.fs.PathJoin(w.folder, tipFile)
	info, err := w.fs.Stat(name)
	whole := err == nil && info.Size() >= tipSlots*tipSlotBytes
	f, err := w.fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if !whole {
		from := int64(0)
		if info != nil {
			from = info.Size()
		}
		if err := padTip(w.fs, w.folder, f, from); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	w.f = f
	return nil
}

func padTip(fs vfs.FS, folder string, f vfs.File, from int64) error {
	if _, err := f.WriteAt(make([]byte, tipSlots*tipSlotBytes-from), from); err != nil {
		return err
	}
	return errors.Join(f.Sync(), syncDir(fs, folder))
}

func (w *tipWriter) sync() error {
	if w.f == nil {
		return nil
	}
	return w.f.SyncData()
}

func (w *tipWriter) close() error {
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	w.f = nil
	return err
}

// saveTip writes the TIP of a store that nobody has open.
func saveTip(fs vfs.FS, folder string, t tip) error {
	w := tipWriter{fs: fs, folder: folder}
	return errors.Join(w.write(&t), w.sync(), w.close())
}
