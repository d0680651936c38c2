package fanfare

import (
	"context"
	"time"

	"github.com/fanfare-hub/fanfare/histogram"
)

// Log is the ordered, durable store of events: the one source of truth, from which both replay and
// live delivery read. All methods may be called at once from any goroutine. Package logtest holds
// the suite that every engine passes.
type Log interface {
	// Append queues b and returns; done is called exactly once, from a goroutine of the log, and
	// must not block. A nil error means that b is as durable as the log's setting says, and visible
	// to Read (P1: durable, then visible, then acknowledged). All events of b are stored, with
	// consecutive positions in their order, or none is.
	//
	// Errors: CodeConflict when an idempotency key was used for something else;
	// CodePreconditionFailed, with Latest, when a condition was not met; CodeOverloaded when the
	// queue is full; CodeUnavailable when the log cannot store at present. After
	// CodeUnavailable b may have been stored all the same. b and everything that it points to
	// belong to the log until done is called; the strings in it belong to the log for ever.
	Append(b *Batch, done func(Receipt, error))

	// Read returns the next events of a query, in log order. It never goes beyond the durable
	// position. It may touch the disk. It does a bounded amount of work: a page may be empty and
	// end before Query.Through.
	Read(ctx context.Context, q Query) (Page, error)

	// Missed tells whether events after a position may be missing (P4). It may touch the disk. It
	// does a bounded amount of work: if that was not enough, the answer has a Token for the next
	// call.
	Missed(ctx context.Context, a Absence) (Loss, error)

	// Last goes back over the newest events of patterns, to find where a replay of them starts. It
	// may touch the disk. It does a bounded amount of work: if that was not enough, the answer has
	// a From, from which the next call goes on.
	Last(ctx context.Context, r Recent) (Past, error)

	// Channels returns what channels of patterns hold, by name. It may touch the disk. It does a
	// bounded amount of work: a page may be empty and still have a Next, with which it is to be
	// asked again. It reads the newest entry of each channel, and no other event.
	Channels(ctx context.Context, q ChannelQuery) (ChannelPage, error)

	// Watch makes w hear of every group of events that becomes visible from now on, until stop is
	// called. When Watch has returned, w has been told nothing at or below the returned position.
	Watch(w Watcher) (durable Position, stop func())

	// Status tells how the log is. It does not block.
	Status() Status

	// Now is the log's time: an event has expired when it is not before Event.Expires. It is the
	// machine's, except that it never falls, and does not follow a jump at once. It does not block.
	Now() time.Time
}

// Keeper stores kept positions; an engine that implements Log implements it too.
type Keeper interface {
	// Kept returns the position that a Batch last kept under name. It returns false if there is
	// none, or if it has expired by the log's clock: while the machine's clock is behind the log's,
	// Expires is stored later by the same amount.
	Kept(ctx context.Context, name string) (Kept, bool, error)

	// EachKept calls f for the positions that are kept under names with a prefix, in the order of
	// the names, until f returns false.
	EachKept(ctx context.Context, prefix string, f func(Kept) bool) error

	// Ride makes the log ask r for kept positions before it writes a group, until stop is called.
	// They are stored with the group, so the stored positions of r are never older than the events
	// that are being stored.
	Ride(r Rider) (stop func())
}

// Rider has positions to keep that can wait for a group that is written anyway.
type Rider interface {
	// Board returns up to most positions to keep, and done, which is called once when they are
	// stored, or with an error when that is not certain. Board is called from one goroutine of the
	// log at a time, which commits no group meanwhile: it must be quick, and must not block. done
	// is called like the done of an Append.
	Board(most int) (keep []Kept, done func(error))
}

// Batch holds the events and kept positions that one Append stores, all or none. A batch without
// events stores only kept positions.
type Batch struct {
	Events []Event // Position, Time and Expires are set by the log
	Keys   []Key   // nil, or one for each event; the zero Key is none
	Key    Key     // for the batch as a whole; Keys is nil then
	Keep   []Kept

	// If is nil, or has a condition for each event, at most one for each channel. All are decided
	// before the batch is stored, and after its keys: what was stored before under its key is
	// answered as a repeat, whatever its condition says now. One that is not met refuses the batch,
	// and is not remembered under a key.
	If []Condition

	// TTL is nil, or has for each event the time after which it expires; zero means never. An event
	// that has expired is not read any more, as if it had not been stored, and that is no gap.
	TTL []time.Duration

	// DeliverAt, or DeliverIn, has a batch of one event stored now and published then: its position
	// is given, and its TTL begins, at that time. DeliverIn counts from when the batch is stored.
	// See Scheduler.
	DeliverAt time.Time
	DeliverIn time.Duration

	// Later are events that are stored with the batch, to be published later, and Cancel are
	// scheduled events that are canceled with it; ids of which nothing is scheduled do not matter.
	// Both happen when the batch is stored, and not for a repeat under its key.
	Later  []Later
	Cancel []ScheduledID
}

// Scheduled tells whether the batch is to be published later.
func (b *Batch) Scheduled() bool { return !b.DeliverAt.IsZero() || b.DeliverIn != 0 }

// Key is an idempotency key: a second batch or event under the same key is not stored, but answered
// with the first's receipt. Keys are remembered for ten minutes, across restarts.
type Key struct {
	Scope       string   // the publisher and the channel: equal keys in different scopes are different
	Text        string   // the key that the caller sent; empty is no key
	Fingerprint [16]byte // of the published events; another one under the same key is CodeConflict
	Note        string   // kept with the first and given back with each repeat
}

// Receipt is the answer to a batch.
type Receipt struct {
	Positions []Position // of the batch's events, in order
	Replayed  bool       // nothing was stored: every event had been stored before under its key
	Note      string     // of the first Key that was replayed

	Scheduled ScheduledID // of a batch that is published later, which has no positions yet
	DeliverAt time.Time   // when that is
}

// Query asks for events of channels and patterns.
type Query struct {
	Patterns []Pattern
	After    Position  // events above it only
	Through  Position  // up to here at most; zero is the durable position
	Since    time.Time // events with this time or a later one only, when set
	// Age leaves out events that were stored longer ago than this, when set. The log knows that
	// better than their times do: a clock that was wrong for a while makes no event younger or
	// older.
	Age   time.Duration
	Limit int // most events to return; zero is 256
	Bytes int // stop after this many bytes of data (one event always fits); zero is 256 KiB
	// Newest leaves out each event that a newer one of its channel, up to Through, has replaced.
	Newest bool
	// At asks for the events at these positions alone, which rise. Those that are gone are left
	// out.
	At []Position
}

// Page is an answer to a Query.
type Page struct {
	Events  []Event
	Through Position // the answer is complete up to here; ask again with After: Through
	// Trimmed is the highest trim mark of the query's exact channels, or of the pattern's channels
	// that were met: when it is above Query.After, events between the two are gone. A mark that is
	// not above Query.After may be left out.
	//
	// With Query.Newest a mark counts only where its channel holds nothing newer.
	Trimmed  Position
	Replaced uint64 // with Query.Newest, the events that were left out
}

// ChannelQuery asks what channels hold.
type ChannelQuery struct {
	Patterns []Pattern
	From     string   // channels from this name on, in the order of their bytes; empty: from the first
	Through  Position // the state at this position; zero is the durable position
	Limit    int      // most channels to return; zero is 256
	Events   bool     // return the newest events whole, and not only their positions and times
	Bytes    int      // with Events: stop after this many bytes of data; zero is 256 KiB
	Counts   bool     // count each channel's events, too
}

// ChannelPage is an answer to a ChannelQuery.
type ChannelPage struct {
	Channels []ChannelState // by name; channels without an event are left out
	Through  Position       // the position whose state this is
	Next     string         // not empty: ask again with From: Next
}

// ChannelState is what a channel holds.
type ChannelState struct {
	// Latest is the newest retained event. Unless it was asked for whole, it has only its channel,
	// position and time.
	Latest Event
	Count  uint64 // retained events, when it was asked for
	Bytes  uint64 // of their data
}

// Absence asks what a resuming subscriber has missed.
type Absence struct {
	Patterns []Pattern
	After    Position // it has everything up to here
	Token    string   // of the answer before, when that was not the last
	// Newest says that the subscriber wants only the newest event of each channel: an event that is
	// gone from under a newer one is not missed.
	Newest bool
}

// Loss says whether a subscriber that resumes may have missed events.
type Loss struct {
	Durable Position  // the newest position when this was looked up
	Reason  GapReason // why events after Absence.After may be missing; empty when none is
	Trimmed Position  // no trim mark of the patterns' channels is above this
	Token   string    // not empty: there is more to look at, and Reason says nothing yet
}

// Recent asks for the newest events of patterns.
type Recent struct {
	Patterns []Pattern
	Count    int      // how many of them
	Through  Position // up to here; zero is the durable position
}

// Past says where the newest events of patterns stand.
type Past struct {
	First Position // the oldest of those that were found; zero when none was
	Count int      // how many were found, at most Recent.Count
	// every event above it was looked at; when it is not zero, ask again with Through: From for
	// those that are left
	From Position
}

// GapReason says why a subscriber may have missed events (P4).
type GapReason string

// The reasons. They are part of the HTTP contract.
const (
	GapTrimmed GapReason = "trimmed" // retention has removed events after the position
	GapLost    GapReason = "lost"    // the position lies between two runs: the log has lost its tail
	GapFuture  GapReason = "future"  // the position is newer than the log
	GapUnknown GapReason = "unknown" // the text is not a position

	// GapForgotten is not found by a log: a position was kept for a client that sends none, and is
	// no longer kept.
	GapForgotten GapReason = "forgotten"
)

// Kept is a position that is kept under a name, for a client that sends none.
type Kept struct {
	Name     string // 1 to 512 bytes
	Position Position
	Value    string    // more data that its owner wants back
	Time     time.Time // when it was true; zero in a Batch: when it is stored
	Expires  time.Time // when it is forgotten; zero in a Batch: Lifetime says it

	// Lifetime, in a Batch, is how long after it was stored the position is forgotten. The log's
	// own clock decides that, and does not follow a machine's clock that is wrong for a while.
	Lifetime time.Duration
	Forget   bool // in a Batch: forget what is kept under the name now; the other fields do not count

	Age time.Duration // set by a Keeper: how long ago it was stored, by the log's own clock
}

// Watcher hears of the events that become visible. Its methods are called from one goroutine of the
// log, one at a time, in order, before the publishers are answered; they must not block.
type Watcher interface {
	// Committed says that events, in log order, are visible, and the log is durable up to the
	// position given. The slice may be used until Committed returns, the events for ever.
	Committed(events []Event, durable Position)
	// Reopened says that the log has been closed and opened again: below durable there may be
	// events that no watcher was told of.
	Reopened(durable Position)
}

// Status is the state of a log.
type Status struct {
	Durable Position // the newest position that readers may see
	Err     error    // why nothing can be stored at present; nil when it can
}

// Operable is the part of an engine for its operators. An engine need not implement it; the hub's
// page, metrics and commands then show and do less.
type Operable interface {
	// Stats returns the engine's figures. It does not block for long.
	Stats() LogStats

	// Oldest returns the time of the oldest event, and false when there is none. It may touch the
	// disk.
	Oldest(ctx context.Context) (time.Time, bool, error)

	// Retention reports how much each rule holds at present, and how much it would remove. It does
	// so for the given rules, or, with nil, for those in force. It changes nothing, and takes time
	// on a log with very many channels.
	Retention(ctx context.Context, rules []Rule) ([]RuleReport, error)

	// MaxAge returns for how long the rules in force keep an event of the channel, and 0 when they
	// set no limit to its age.
	MaxAge(c Channel) time.Duration

	// Backup copies the log, as it is on disk at one moment, into a folder that does not exist yet,
	// and returns the newest position in the copy. Publishing goes on meanwhile.
	Backup(ctx context.Context, dir string) (Position, error)
}

// LogStats are an engine's counts since it was opened, and figures of the moment.
type LogStats struct {
	Groups, Events, Bytes uint64 // committed; bytes of data
	Refused               uint64 // appends that were not stored: queue full, slow, failed, or low disk
	ReplayedKeys          uint64 // appends answered by an idempotency key
	NotMet                uint64 // appends that were not stored because a condition was not met
	Expired               uint64 // events that were deleted, or not published, because they had expired
	Scheduled             uint64 // events that are to be published later, at present
	ScheduledBytes        uint64 // of their data and names
	FellDue               uint64 // scheduled events that were published
	Late                  uint64 // those of them that were published more than a second after they were due
	Reopened              uint64 // times the store failed and was opened again
	Trimmed               uint64 // events removed by retention, channel by channel
	Forgotten             uint64 // channels that became empty and were forgotten
	Limited               uint64 // times the oldest events were removed because of the limit on the log's size
	EventsRead            uint64 // event values that reads have touched
	IndexRead             uint64 // index entries that reads have touched
	LimitWaits            uint64 // times publishers waited for room: they were faster than the oldest events could go
	WrittenBytes          uint64 // written to files, by commits, flushes and compactions
	Corrupt               uint64 // times a damaged file was met
	Lost                  uint64 // events that were stored, and were not there any more when the log was opened
	ClockJumps            uint64 // times the clock was found to have jumped by more than a minute

	ClockAhead     time.Duration // of the machine's clock before the time that ages go by; below zero: behind
	DiskBytes      int64         // bytes that the files took on disk a second ago, counted in blocks
	SetAsideBytes  int64         // the part of DiskBytes that is set aside for the next writes
	MaxBytes       int64         // the most that the files may take; 0: no limit
	QueueBytes     int           // wait to be committed
	CachedChannels int
	Fsync          histogram.Counts // from a group's hand-over to the WAL until it is on disk
}
