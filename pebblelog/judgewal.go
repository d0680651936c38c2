package pebblelog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"
)

// The judge reads two kinds of Pebble's files itself: the head of each record of the MANIFEST, and
// the WALs.

// manifest holds the facts of a MANIFEST that the judge needs.
type manifest struct {
	name      string
	num       uint64
	whole     int64  // bytes up to the end of its last whole record
	oldestWAL uint64 // older ones are obsolete
	lastSeq   uint64
}

// readManifest reads the MANIFEST up to the end of its last whole record, as Pebble does. It is a
// fault if the TIP knows of a later end.
func (j *judging) readManifest() error {
	m, t := &j.manifest, &j.tip
	m.num, _ = fileNumber(strings.TrimPrefix(m.name, "MANIFEST-"))
	f, err := j.fs.Open(j.fs.PathJoin(j.folder, m.name))
	if err != nil {
		return j.reading(err)
	}
	defer f.Close()
	records := record.NewReader(f, 0)
	for {
		r, err := records.Next()
		var edit []byte
		if err == nil {
			edit, err = io.ReadAll(r)
		}
		if errors.Is(err, io.EOF) || record.IsInvalidRecord(err) {
			break
		}
		if err != nil {
			return err
		}
		m.apply(edit)
		m.whole = records.Offset()
	}
	switch {
	case t.manifest > m.num:
		j.fault("%s is in force, and MANIFEST-%06d was after it", m.name, t.manifest)
	case t.manifest == m.num && t.manifestBytes > m.whole:
		j.fault("%s is whole up to byte %d, and was up to byte %d", m.name, m.whole, t.manifestBytes)
	}
	t.manifest, t.manifestBytes = m.num, m.whole
	return nil
}

// The tags of the fields of a MANIFEST's record that the judge needs. They come before all others.
const (
	manifestComparer   = 1 // text
	manifestOldestWAL  = 2
	manifestNextFile   = 3
	manifestLastSeq    = 4
	manifestPrevLog    = 9
	manifestNewBacking = 105 // number, size
	manifestOldBacking = 106
)

// apply takes the facts from one record.
func (m *manifest) apply(edit []byte) {
	f := fields{b: edit}
	for f.err == nil && len(f.b) > 0 {
		switch f.number() {
		case manifestComparer:
			f.bytes(f.number())
		case manifestOldestWAL:
			if n := f.number(); f.err == nil && n > 0 {
				m.oldestWAL = n
			}
		case manifestLastSeq:
			if n := f.number(); f.err == nil && n > 0 {
				m.lastSeq = n
			}
		case manifestNextFile, manifestPrevLog, manifestOldBacking:
			f.number()
		case manifestNewBacking:
			f.number()
			f.number()
		default:
			return
		}
	}
}

// readWALs reads each WAL that is not obsolete. It checks that the WAL is there and follows the one
// before it, and keeps its records of runs.
func (j *judging) readWALs() error {
	all, err := wal.Scan(wal.Dir{FS: j.fs, Dirname: j.folder})
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(w wal.LogicalLog) bool { return uint64(w.Num) < j.manifest.oldestWAL })
	there := []uint64{}
	for _, w := range all {
		there = append(there, uint64(w.Num))
	}
	for _, num := range j.tip.wals {
		if num >= j.manifest.oldestWAL && !slices.Contains(there, num) {
			j.fault("%s is missing", walName(num))
		}
	}
	j.tip.wals = there
	for i, w := range all {
		end, err := j.readWAL(w, i == len(all)-1)
		if err != nil {
			return err
		}
		j.newest, j.torn = walName(there[i]), end == walTorn
		if end != walClosed && i < len(all)-1 {
			j.fault("%s ends early, and there is a newer one", j.newest)
			j.unreadable = true
		}
	}
	return nil
}

func walName(num uint64) string { return fmt.Sprintf("%06d.log", num) }

// firstSeq is the lowest sequence number that Pebble gives.
const firstSeq = 10

// readWAL reads one WAL to its end.
func (j *judging) readWAL(w wal.LogicalLog, newest bool) (walEnd, error) {
	r := w.OpenForRead()
	defer r.Close()
	name := walName(uint64(w.Num))
	for {
		rec, at, err := r.NextRecord()
		if errors.Is(err, io.EOF) {
			return walClosed, nil
		}
		if errors.Is(err, record.ErrUnexpectedEOF) {
			j.tornAt = at.Physical
			return j.endOf(w, at.Physical)
		}
		if newest && (errors.Is(err, record.ErrInvalidChunk) || errors.Is(err, record.ErrZeroedChunk)) {
			j.tornAt, j.broken, j.short = at.Physical, err, true
			return walTorn, nil
		}
		var b []byte
		if err == nil {
			b, err = io.ReadAll(rec)
		}
		if err != nil {
			return 0, j.reading(fmt.Errorf("%s: %w", name, err))
		}
		h, ok := batchrepr.ReadHeader(b)
		if !ok {
			return 0, j.reading(fmt.Errorf("%s: a batch is cut short", name))
		}
		// The sequence numbers of a batch follow those of the batch before it, and those of the
		// first one follow a number that the MANIFEST knows.
		seq := uint64(h.SeqNum)
		if j.next == 0 && seq > max(j.manifest.lastSeq+1, firstSeq) || j.next != 0 && seq != j.next {
			j.fault("%s does not go on where what is before it ends: a file is missing, or %s is older than it was",
				name, j.manifest.name)
		}
		j.next = seq + uint64(h.Count)
		if err := j.readBatch(batchrepr.Read(b)); err != nil {
			return 0, j.reading(fmt.Errorf("%s: %w", name, err))
		}
	}
}

// readBatch keeps the records of runs and the format.
func (j *judging) readBatch(r batchrepr.Reader) error {
	for {
		kind, key, value, ok, err := r.Next()
		if err != nil || !ok {
			return err
		}
		j.some = true
		if kind == pebble.InternalKeyKindSet {
			j.keep(key, value)
		}
	}
}

// walEnd is how a WAL ends.
type walEnd int

const (
	walClosed   walEnd = iota // with the mark of a WAL that was closed
	walUnclosed               // at the end of a record, without that mark: the process was killed
	walTorn                   // within a record
)

// endOf looks at the bytes at the place of a WAL's next record. A WAL that was not closed ends
// there if there are no bytes, or zeros, or bytes from the file's earlier use for another WAL.
func (j *judging) endOf(w wal.LogicalLog, at int64) (walEnd, error) {
	fs, name := w.SegmentLocation(w.NumSegments() - 1)
	f, err := fs.Open(name)
	if err != nil {
		return 0, j.reading(err)
	}
	defer f.Close()
	// The head of a record's piece is a checksum (4 bytes), the length (2), the type (1), and the
	// low half of the number of the WAL (4).
	head := make([]byte, 11)
	n, err := f.ReadAt(head, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	ours := head[6] != 0 && binary.LittleEndian.Uint32(head[7:]) == uint32(w.Num)
	if n < len(head) {
		ours = bytes.Count(head[:n], []byte{0}) < n
	}
	if ours {
		return walTorn, nil
	}
	return walUnclosed, nil
}

// judgeEnd tells two kinds of damage to the newest WAL apart. If the WAL ends early, its later
// records are lost, and the log is opened without them. If the WAL is damaged in its middle, an
// expert could save the records that follow, but Pebble would delete them; that is a fault.
//
// Bytes that a timer had not synced yet are treated differently. A power cut may keep a later part
// of them without an earlier one. Then the log ends at the first part that is missing. Pebble would
// not open such a WAL, because it believes that all was synced; so it is shown the part up to there
// alone (short).
func (j *judging) judgeEnd() error {
	_, _, lost := j.lost()
	if j.newest == "" || len(j.faults) > 0 || j.broken == nil && !lost {
		return nil
	}
	more := j.broken != nil
	if !more {
		var err error
		if more, err = goesOn(j.fs, j.fs.PathJoin(j.folder, j.newest), j.tip.wals[len(j.tip.wals)-1],
			j.tornAt); err != nil {
			return j.reading(err)
		}
	}
	j.short = j.short || more
	if more && (!j.tip.lazy || j.last < j.tip.synced) {
		j.fault("%s is damaged after byte %d, and goes on after that", j.newest, j.tornAt)
	}
	return nil
}

// store returns the file system on which to open the store, for reading only or for writing.
func (f *finding) store(fs vfs.FS) vfs.FS {
	if !f.short {
		return fs
	}
	return shortFS{FS: fs, name: f.newest, size: f.tornAt}
}

// shortFS shows only the first bytes of one WAL.
type shortFS struct {
	vfs.FS
	name string // of the WAL, without its folder
	size int64
}

func (fs shortFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.Open(name, opts...)
	if err != nil || fs.PathBase(name) != fs.name {
		return f, err
	}
	return &shortFile{File: f, left: io.LimitReader(f, fs.size)}, nil
}

func (fs shortFS) Unwrap() vfs.FS { return fs.FS }

// shortFile is the WAL of a shortFS. It can be read only from its start to its end, as Pebble does.
type shortFile struct {
	vfs.File
	left io.Reader
}

func (f *shortFile) Read(p []byte) (int, error) { return f.left.Read(p) }

// Pebble writes a WAL in blocks, and a record as pieces that each lie within a block. The head of a
// piece is its checksum (4 bytes), its length (2), its type (1), and the low half of the number of
// the WAL (4). Heads of some types have 8 bytes more.
const (
	walBlockBytes    = 32 << 10
	walPieceHead     = 11
	walPieceSyncHead = 19
	walPieceFirst    = 5 // the lowest type with the number
	walPieceSync     = 9 // the lowest type with 8 bytes more
	walPieceLast     = 12
)

// goesOn tells whether a WAL has a whole piece after one that is not whole, from an offset on.
func goesOn(fs vfs.FS, name string, num uint64, at int64) (bool, error) {
	f, err := fs.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	block := make([]byte, walBlockBytes)
	broken := false
	for offset := at - at%walBlockBytes; ; offset += walBlockBytes {
		n, err := f.ReadAt(block, offset)
		if n == 0 {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return false, err
		}
		rest := block[:n]
		if offset < at {
			rest = rest[min(int(at-offset), n):]
		}
		for len(rest) >= walPieceHead {
			size, whole := walPiece(rest, num)
			if whole && broken {
				return true, nil
			}
			broken = broken || !whole
			if size == 0 {
				break
			}
			rest = rest[size:]
		}
	}
}

// walPiece reads the piece at the start of b. It returns the piece's size, and whether the piece is
// whole. The size is 0 when b does not start with a piece of this WAL, or holds only a part of it.
func walPiece(b []byte, num uint64) (size int, whole bool) {
	kind := b[6]
	if kind < walPieceFirst || kind > walPieceLast || binary.LittleEndian.Uint32(b[7:]) != uint32(num) {
		return 0, false
	}
	size = walPieceHead
	if kind >= walPieceSync {
		size = walPieceSyncHead
	}
	size += int(binary.LittleEndian.Uint16(b[4:]))
	if size > len(b) {
		return 0, false
	}
	sum := crc32.Checksum(b[6:size], tipTable)
	return size, (sum>>15|sum<<17)+0xa282ead8 == binary.LittleEndian.Uint32(b)
}
