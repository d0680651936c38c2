// Package pebblelog keeps a fanfare.Log on one machine, in a Pebble store.
//
// # The rooms
//
//	Append ─► proposals ─► order ─ group + terms ─► applier ─ one batch ─► WAL ─► fsync ─► durable
//	          queue,       clock,                   numbers, keys,         committer        │
//	          refusals     room                     kept, floors                            ▼
//	             ▲                                    │                         told to watchers
//	             └──────────── answers ◄──────────────┼─────────────────────────────────────┘
//	                                                  ▼
//	upkeep ─► retention, limiter ── delete ──►     catalog     ◄── look ── readers ◄─ Read, Missed
//	          sweeper, records          channels, rules, marks, seconds
//
// A Log outlives its store. The proposals (proposals.go), the order (order.go), the upkeep
// (upkeep.go) and the watchers do so too. One opening of the store is a session (session.go), and
// each session begins a new run of positions (run.go). When a session fails (fail.go), another
// takes its place.
//
// # The way of an append
//
// The proposals queue a request, or refuse it. The order makes a group of the queued requests, and
// gives the group its terms, the time among them. For a log that stands alone, the order is that of
// its queue. The committer (commit.go) has the applier (apply.go) number the events of the group
// and find repeated idempotency keys (keyed.go), and hands one Pebble batch to the WAL. The
// contents of a log follow from its groups alone (docs/adr/0024-rooms-of-the-log.md). A second
// goroutine of the committer waits for the group's fsync, moves the durable position, tells the
// watchers, and has the proposals answer: durable, then visible, then acknowledged (P1). Two groups
// may be in flight, so that the next one gathers and is written while the disk syncs the first.
//
// # The way of a read
//
// The catalog (catalog.go, channels.go, mark.go, rule.go, seconds.go) knows the channels, and which
// events of each are visible. These are up to the durable position, because Pebble shows a batch
// before its fsync; and they are above the channel's trim mark, which moves as soon as a reader
// looks. Readers (readers.go) read exact channels by merging their index entries, so that they
// touch no other channel's events (read.go). They read patterns by the index entries of the
// patterns' members (members.go), or by position (scan.go). The runs and the trim marks decide
// whether a resume has missed events (missed.go); so does an upper limit of the marks (bound.go,
// survey.go).
//
// # Deletion
//
// No reader notices a deletion. Retention (retain.go, sweep.go, recordsweep.go) deletes the events
// that the catalog hides. The limiter (size.go) keeps the files within MaxBytes, and small on a hub
// at rest; publishers that are too fast for it wait (room.go). Upkeep (upkeep.go) runs both on the
// session of the moment, and measures the disk (disk.go). The session keeps one obsolete WAL to
// write over (wal.go), and gives it back to a disk that is nearly full.
//
// # The store
//
// Pebble reports some failures only through Logger.Fatalf (fail.go). The file system is wrapped
// (fs.go): a failed session is fenced off, so that it can no longer change a file that its
// successor uses, and with DurabilityAsync the WAL is synced by a timer.
//
// Pebble deletes the files that it does not know when it opens a store. Before that, a judge reads
// the store (judge.go), because a store that has lost its newest part looks like a whole one of an
// earlier time. The file log/TIP (tip.go, tipfs.go) says how far the store had come, and each run
// names the one before it (chain.go).
//
// The keys are described in docs/format/pebblelog.md.
package pebblelog
