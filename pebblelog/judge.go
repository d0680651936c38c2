package pebblelog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// The judge looks at a store before Pebble opens it, because Pebble deletes the files that it does
// not know as soon as it has opened, and these may hold all that was published. The judge only
// reads. It reads the WALs once, which Pebble is about to read anyway, and only some keys of the
// tables.
//
// The judge refuses a store with missing parts: the MANIFEST is older or shorter than the TIP says,
// or a WAL or a table that should be there is missing, or the WALs, or the runs, do not follow each
// other. When only the newest WAL ends early, the judge says which events are lost (finding.lost).
// That store is opened, because no file could bring these events back, and clients get a gap.

// finding is the result of a judge.
type finding struct {
	exists bool // there is a store
	// The least that the store must hold, as its TIP says; but the MANIFEST and the WALs are those
	// that the judge has found.
	tip      tip
	tipFound bool
	tipErr   error // the reason why the TIP could not be read; nil when there is none
	format   string
	runs     []run
	last     fanfare.Position // the highest position given, as far as the store knows
	newest   string           // the newest WAL
	torn     bool             // the newest WAL ends within a record
	tornAt   int64            // the offset at which that record starts
	broken   error            // Pebble's error when it sees that the newest WAL is damaged in its middle
	short    bool             // the newest WAL is to be read up to tornAt only
	faults   []string         // what is wrong, the cause first
}

// lost returns the range of positions that were stored and are missing now: those above after, up
// to through. It returns false when none are.
func (f *finding) lost() (after, through fanfare.Position, ok bool) {
	return f.last, f.tip.durable, f.tip.durable > f.last
}

// judge judges the log in a data directory that the caller has locked, or in a backup. If the log
// is not whole, the error is a *damage.
func judge(fs vfs.FS, dir string) (*finding, error) {
	j := &judging{fs: fs, dir: dir, folder: fs.PathJoin(dir, "log"), sets: map[string][]byte{}}
	j.readTip()
	for _, step := range []func() error{j.place, j.readManifest, j.readTables, j.readWALs, j.judgeRuns} {
		if err := step(); err != nil {
			return nil, err
		}
		if !j.exists {
			break
		}
	}
	if len(j.faults) > 0 {
		return &j.finding, &damage{dir: dir, what: j.faults[0], readable: j.exists && !j.unreadable}
	}
	return &j.finding, nil
}

// sealTip writes the TIP of a whole store that no process has open.
func sealTip(fs vfs.FS, dir string) error {
	found, err := judge(fs, dir)
	if err != nil {
		return err
	}
	t := found.tip
	if len(found.runs) > 0 {
		t.run, t.durable = found.runs[len(found.runs)-1].first, found.last
	}
	return saveTip(fs, fs.PathJoin(dir, "log"), t)
}

// judge judges the log before the session opens it, and logs the lost events.
func (s *session) judge() (*finding, error) {
	l := s.log
	f, err := judge(l.opts.FS, l.opts.Dir)
	if err != nil || !f.exists || l.opts.Durability == DurabilityMemory { // which has no TIP
		return f, err
	}
	attrs := []any{slog.String("file", f.newest), slog.String("last", f.last.String())}
	_, through, lost := f.lost()
	switch {
	case lost:
		l.opts.Logger.Error("the log ends early: events that were stored are lost; "+
			"a client that has seen them gets a gap, and a backup may have them (fanfare restore)",
			append(attrs, slog.String("lost_through", through.String()))...)
	case f.torn && !f.tipFound:
		l.opts.Logger.Warn("the newest file of the log ends within a record, and no file says how much was stored: "+
			"the newest events may be lost", attrs...)
	case f.torn:
		l.opts.Logger.Warn("the newest file of the log ends within a record: the hub or its machine stopped while "+
			"it wrote that record, which is dropped; by all that is known it was not acknowledged", attrs...)
	case f.tipErr != nil:
		l.opts.Logger.Warn(
			"the file log/"+tipFile+" cannot be read: the hub cannot tell whether the newest events are lost",
			append(attrs, slog.Any("err", f.tipErr))...)
	case !f.tipFound && len(f.runs) > 0:
		l.opts.Logger.Info("the log has no file log/"+tipFile+", like logs of earlier versions: "+
			"the hub cannot tell whether the newest events are lost", attrs...)
	}
	return f, nil
}

// newTip returns the keeper of the TIP of the session's store.
func (s *session) newTip(folder string, found *finding, lazy bool) *tipFS {
	l := s.log
	tip := found.tip
	tip.lazy = tip.lazy || lazy
	fs := newTipFS(found.store(l.opts.FS), folder, tip, func(err error) {
		l.opts.Logger.Warn("the file log/"+tipFile+" cannot be written: "+
			"if the log is damaged later, the hub may not see it", slog.Any("err", err))
	})
	if l.opts.Durability == DurabilityMemory {
		fs.fence() // a log in memory needs no TIP
	}
	return fs
}

// judging is a judge at work.
type judging struct {
	finding
	fs          vfs.FS
	dir, folder string
	existed     bool // there was a log in the data directory at some time
	manifest    manifest
	next        uint64            // the sequence number of the next batch in the WALs; 0 before the first batch
	sets        map[string][]byte // records of runs, and the format, in tables and WALs
	some        bool              // the store holds any key
	tables      []string          // the files of all tables
	unnamed     []string          // the tables that the MANIFEST does not name
	unreadable  bool              // the log cannot even be exported
}

// fault adds something that is wrong with the log.
func (j *judging) fault(format string, args ...any) {
	j.faults = append(j.faults, fmt.Sprintf(format, args...))
}

// reading judges an error of reading the store. Damage becomes a fault; an error of the disk is
// returned.
func (j *judging) reading(err error) error {
	j.unreadable = true
	what, ok := isDamage(err)
	if !ok {
		return err
	}
	j.fault("%s", what)
	return nil
}

// readTip reads the TIP. Logs of earlier versions have none. When there is none, or it cannot be
// read, the judge demands nothing by it.
func (j *judging) readTip() {
	t, err := readTip(j.fs, j.folder)
	switch {
	case err == nil:
		j.tip, j.tipFound = t, true
	case !errors.Is(err, os.ErrNotExist):
		j.tipErr = err
	}
}

// place finds the store, and whether there was a log earlier.
func (j *judging) place() error {
	_, err := j.fs.Stat(j.fs.PathJoin(j.dir, formatFile))
	j.existed = err == nil || j.tip.run != 0
	names, err := j.fs.List(j.folder)
	switch {
	case errors.Is(err, os.ErrNotExist) && j.existed:
		j.fault("the folder log is missing, and %s says that there was one", formatFile)
		return nil
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	wals, manifests := 0, 0
	format, markers := false, map[string]string{} // of the MANIFEST, by their number
	for _, name := range names {
		switch {
		case path.Ext(name) == ".log":
			wals++
		case path.Ext(name) == ".sst", path.Ext(name) == ".blob":
			j.tables = append(j.tables, name)
		case strings.HasPrefix(name, "MANIFEST"):
			manifests++
		case strings.HasPrefix(name, "marker.format-version."):
			format = true
			if v, _ := fileNumber(strings.TrimPrefix(path.Ext(name), ".")); v > uint64(pebble.FormatNewest) {
				return fmt.Errorf("the store has version %d, this program reads %d: "+
					"use the version of fanfare that wrote it", v, pebble.FormatNewest)
			}
		case strings.HasPrefix(name, "marker.manifest."):
			number, _, _ := strings.Cut(strings.TrimPrefix(name, "marker.manifest."), ".")
			if other := markers[number]; other != "" {
				j.fault("it holds files of two logs, or of one log at two times: %s and %s", min(name, other),
					max(name, other))
			}
			markers[number] = name
		}
	}
	desc, err := pebble.Peek(j.folder, j.fs)
	if err != nil {
		return j.reading(err)
	}
	// A power cut in a log's first moments leaves less than this, but then no event was stored yet.
	held := j.existed || len(j.tables) > 0
	switch {
	case !desc.Exists && (wals > 0 || held && manifests > 0):
		j.fault("its files are there, but the one that names them (marker.manifest…) is not")
	case !desc.Exists && held:
		j.fault("the folder log is empty, and was not")
	case desc.Exists && held && wals == 0 && !j.tipFound:
		// With a TIP this is no fault, because there is no WAL for a moment while a log is opened.
		j.fault("its newest file (….log) is missing")
	case desc.Exists && held && !format:
		j.fault("the file that says which version of the store it is (marker.format-version…) is missing")
	}
	if j.exists = desc.Exists; !j.exists {
		return nil
	}
	j.manifest.name = j.fs.PathBase(desc.ManifestFilename)
	return j.options(desc.OptionsFilename)
}

// options checks whether Pebble can read the file with its settings. If not, Pebble would refuse
// the store without a hint.
func (j *judging) options(name string) error {
	if name == "" {
		return nil
	}
	text, err := readFile(j.fs, name)
	if err != nil {
		return j.reading(err)
	}
	o := &pebble.Options{FS: j.fs}
	o.EnsureDefaults()
	if err := o.CheckCompatibility(j.folder, string(text)); err != nil {
		j.unreadable = true
		j.fault("%s cannot be read; it holds settings of the store and no events, "+
			"so the log opens without it (move it away)", j.fs.PathBase(name))
	}
	return nil
}

// readTables reads the parts of the tables that a session reads when it opens the store, so that
// the session does not meet damage after its first write. It leaves out the WALs, which readWALs
// reads.
func (j *judging) readTables() error {
	if err := guarded(j.scanTables); err != nil {
		return j.reading(err)
	}
	return nil
}

func (j *judging) scanTables() error {
	db, err := openReadOnly(tablesOnly{j.fs}, j.folder)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := j.findUnnamed(db); err != nil {
		return err
	}
	it, err := db.NewIter(nil)
	if err != nil {
		return err
	}
	defer it.Close()
	j.some = it.First()
	for _, tag := range []byte{keyBefore, keyClock, keyFloor, keyFormat, keyGone, keyJump, keyNext, keyPhases, keyRun,
		keyUnsized} {
		for ok := it.SeekGE([]byte{tag}); ok && it.Key()[0] == tag; ok = it.Next() {
			j.keep(it.Key(), it.Value())
		}
		if err := it.Error(); err != nil {
			return err
		}
	}
	for _, tag := range []byte{keyEvent, keyName, keySecond} { // the session reads the last key of each
		it.SeekLT([]byte{tag + 1})
		if err := it.Error(); err != nil {
			return err
		}
	}
	return nil
}

// keep keeps a record of a run, or the format. A record that is read later is newer.
func (j *judging) keep(key, value []byte) {
	if len(key) > 0 && (key[0] == keyRun || key[0] == keyBefore || key[0] == keyFormat) {
		j.sets[string(key)] = bytes.Clone(value)
	}
}

// tablesOnly is a file system without WALs.
type tablesOnly struct{ vfs.FS }

func (fs tablesOnly) List(dir string) ([]string, error) {
	names, err := fs.FS.List(dir)
	return slices.DeleteFunc(names, func(name string) bool { return path.Ext(name) == ".log" }), err
}

func (tablesOnly) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// judgeRuns judges the runs and the format, of which tables and WALs hold records.
func (j *judging) judgeRuns() error {
	value, ok := j.sets[string(keyFormat)]
	j.format = string(value)
	switch {
	case ok && !readable(j.format):
		return fmt.Errorf("the log has format %q, this program reads %q: use the version of fanfare that wrote it",
			value, formatVersion)
	case !ok && j.existed:
		j.fault("the store holds no log, and there was one")
		j.unreadable = true
	case !ok && j.some && len(j.faults) == 0:
		return errors.New("the folder holds a store that is not a fanfare log: choose another data directory")
	}
	befores := map[fanfare.Position]before{}
	for _, key := range slices.Sorted(maps.Keys(j.sets)) {
		if err := j.run([]byte(key), j.sets[key], befores); err != nil {
			j.fault("the record of a run is damaged")
			j.unreadable = true
			return nil
		}
	}
	if broken := checkChain(j.runs, befores); broken != "" {
		j.fault("%s", broken)
	}
	if err := j.judgeEnd(); err != nil {
		return err
	}
	if !j.tipFound {
		j.judgeUnnamed()
	}
	if newest := j.tip.run; newest != 0 && !slices.ContainsFunc(j.runs, func(r run) bool { return r.first == newest }) {
		j.fault("the run from %v, which was the newest, is missing", newest)
	}
	return nil
}

// run keeps one record of a run.
func (j *judging) run(key, value []byte, befores map[fanfare.Position]before) error {
	switch key[0] {
	case keyRun:
		r, err := readRun(key, value)
		j.runs = append(j.runs, r)
		j.last = max(j.last, r.last)
		return err
	case keyBefore:
		first, b, err := readBefore(key, value)
		befores[first] = b
		return err
	}
	return nil
}
