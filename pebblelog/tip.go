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

// The TIP says what a log must hold at the least.
//
// A store that has lost its newest part looks like a whole store of an earlier time: Pebble takes
// the end of a shortened MANIFEST or WAL for the place where the machine once stopped. It opens the
// store, shows fewer events than were acknowledged, and deletes the files that it no longer knows.
// No file of the store shows the loss.
//
// So the file log/TIP keeps how far the store has come: the newest run, the durable position, the
// length of the MANIFEST, and the WALs that there are. A fact is written to the TIP only after it
// is true on disk, so a TIP that is older than the store, or missing, does no harm. A store that
// holds less than its TIP says is damaged (judge.go).
//
// The durable position is written before a group is acknowledged, but without an fsync: it survives
// kill -9, and costs the write of one page in memory. It is synced within a second, for power cuts.
// The other facts change when a table is written, and are synced at once.

const (
	tipFile   = "TIP"
	tipFormat = "fanfare tip 1"

	// The file has two slots, which are written alternately: a torn write leaves the other slot
	// whole.
	tipSlotBytes = 4096
	tipSlots     = 2
)

// tip is what a log must hold at the least. The zero value demands nothing.
type tip struct {
	count         uint64           // the number of writes: the slot with the higher one is newer
	run           fanfare.Position // the first position of the newest run
	durable       fanfare.Position // all events up to here were stored
	manifest      uint64           // the number of the MANIFEST that was in force; 0: none
	manifestBytes int64            // the bytes of it that were synced
	wals          []uint64         // numbers of the WALs that were there, in order

	// With DurabilityAsync a timer syncs the WAL, and a power cut may keep any part of the bytes
	// that were written after the last sync.
	lazy   bool
	synced fanfare.Position // all events up to here were synced
}

var tipTable = crc32.MakeTable(crc32.Castagnoli)

// append appends the text of a slot to dst. The text is for people too.
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

// tipMostWALs is more than the WALs that there ever are; a slot has room for as many.
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

// set takes one line of a slot.
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

// readTip reads the newest whole slot of a store's TIP. Its error is os.ErrNotExist when there is
// no TIP, and errCorrupt when no slot is whole.
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

// tipWriter writes a store's TIP. Its methods must not be called at the same time.
type tipWriter struct {
	fs     vfs.FS
	folder string
	f      vfs.File
	b      []byte
}

// write raises t.count, and writes t into the older slot.
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

// open opens the file. A new file gets its full size, so that later writes need no room on a full
// disk, and its entry in the folder is synced.
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

// padTip brings a new file to its full size, and syncs it and the folder.
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

// saveTip writes the TIP of a store that no process has open.
func saveTip(fs vfs.FS, folder string, t tip) error {
	w := tipWriter{fs: fs, folder: folder}
	return errors.Join(w.write(&t), w.sync(), w.close())
}
