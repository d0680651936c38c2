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
// A Log outlives its store. It holds what does so too: the proposals (proposals.go), the order
// (order.go), the upkeep (upkeep.go), and the watchers. One opening of the store is a session
// (session.go), and each begins a new run of positions (run.go). When a session fails (fail.go),
// another takes its place.
//
// # The way of an append
//
// The proposals queue a request, or refuse it. The order makes a group of what is queued, and gives
// it its terms, the time among them. A log that stands alone has its queue for an order. The
// committer (commit.go) has the applier (apply.go) number the events of the group and answer
// idempotency keys (keyed.go), and hands one Pebble batch to the WAL. What a log holds follows from
// its groups alone (docs/adr/0024-rooms-of-the-log.md). A second goroutine of the committer waits
// for the group's fsync, moves the durable position, tells the watchers, and has the proposals
// answer: durable, then visible, then acknowledged (P1). Two groups may be in flight, so that the
// next one gathers and is written while the disk syncs the first.
//
// # The way of a read
//
// The catalog (catalog.go, channels.go, mark.go, rule.go, seconds.go) knows the channels, and which
// events of each are to be seen: those up to the durable position, because Pebble shows a batch
// before its fsync, and above the channel's trim mark, which moves as soon as anybody looks.
// Readers (readers.go) read exact channels by merging their index entries, so that no other
// channel's events are touched (read.go), and patterns by those of their members (members.go), or
// by position (scan.go). What a resume has missed (missed.go) is decided by the runs and by trim
// marks, or by a bound that no mark is above (bound.go, survey.go).
//
// # Deletion
//
// Deletion changes nothing that anybody sees. Retention (retain.go, sweep.go, recordsweep.go)
// deletes what the catalog hides. The limiter (size.go) keeps the files within MaxBytes, and small
// on a hub at rest; publishers that are too fast for it wait (room.go). Upkeep runs both, on
// whichever session there is, and measures the disk (disk.go). The session keeps one obsolete WAL
// to write over (wal.go), and gives it back to a disk that is nearly full.
//
// # The store
//
// Pebble reports some failures only through Logger.Fatalf (fail.go). The file system is wrapped
// (fs.go): a failed session is fenced off, so that it can no longer change a file that its
// successor uses, and with DurabilityAsync the WAL is synced by a timer.
//
// Before Pebble opens a store, and deletes what it does not know, a judge reads it (judge.go): a
// store that has lost its newest part looks like a whole one of an earlier time. The file log/TIP
// (tip.go, tipfs.go) says how far it had come, and each run names the one before it (chain.go).
//
// The keys are described in docs/format/pebblelog.md.
package pebblelog
