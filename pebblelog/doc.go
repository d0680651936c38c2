// Package pebblelog keeps a fanfare.Log on one machine, in a Pebble store.
//
// # Top to bottom
//
// A Log outlives its store: it holds the directory's lock and the queue of batches, and replaces the store when it fails.
// One opening of the store is a session (session.go); each begins a new run of positions.
//
// The order (order.go) makes groups of requests and gives each its terms, the time among them. A log that stands alone has its
// queue for an order. One goroutine, the committer (commit.go), has each group applied (apply.go): events are numbered,
// idempotency keys answered (keyed.go), and one Pebble batch goes to the WAL. What a log holds follows from its groups alone
// (docs/adr/0024-rooms-of-the-log.md). A second goroutine waits for the group's fsync,
// moves the durable position, tells the watchers, and answers: durable, then visible, then acknowledged (P1). Two groups
// may be in flight, so that the next one gathers and is written while the disk syncs the first.
//
// Readers (read.go, missed.go, last.go) never go beyond the durable position, because Pebble shows a batch before its fsync. Exact
// channels are read by merging their index entries, so no other channel's events are touched; patterns scan by position.
//
// Retention (retain.go, channels.go) clips a channel's reads at its trim mark at once; a sweep deletes what is below.
// The limiter (size.go) keeps the files within MaxBytes, and small on a hub at rest; publishers that are too fast for it wait
// (room.go). The session keeps one obsolete WAL to write over (wal.go), and gives it back to a disk that is nearly full
// (disk.go, fail.go).
//
// Pebble reports some failures only through Logger.Fatalf (fail.go). The file system is wrapped (fs.go): a failed session
// is fenced off, so that it can no longer change a file that its successor uses, and with DurabilityAsync the WAL is
// synced by a timer.
//
// Before Pebble opens a store, and deletes what it does not know, a judge reads it (judge.go): a store that has lost its newest
// part looks like a whole one of an earlier time. The file log/TIP (tip.go, tipfs.go) says how far it had come, and each run
// names the one before it (chain.go).
//
// The keys are described in docs/format/pebblelog.md.
package pebblelog
