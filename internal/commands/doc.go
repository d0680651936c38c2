// Package commands holds the life of commands: events that somebody is to answer. It knows neither
// HTTP nor stores; adapters name the channels.
//
// # Everything is an event
//
//	command   on its channel, with a ttl: it is not delivered any more when it has expired
//	expiry    scheduled under the command's reference, on the recipient's answer channel
//	answers   on $acks/CHANNEL/REFERENCE: the newest event is the state
//
// All of a command is stored in one batch, so there is no command without an expiry. While it
// waits, it is found by its reference, which is the id of the scheduled expiry; so nothing is
// searched for, and nothing is held in memory. Pending is not stored: it is a recipient's having no
// state.
//
// An answer is stored under the condition that the state is still the one that was looked at, and
// the final answer of a single recipient cancels the expiry in the same batch. Of an answer that
// races with another, with the expiry, or with a cancel, one is applied first, and the other finds
// that (fanfare.Batch.If): so there is one final state.
//
// A broadcast has one expiry for all its recipients, on the answer channel of its own channel. A
// recipient that has not answered by then has the state expired.
package commands
