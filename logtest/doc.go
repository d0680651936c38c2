// Package logtest is the conformance suite for engines: an engine that passes Run keeps the
// promises of fanfare.Log. Every test closes the log and opens it again, because a log that was
// never reopened has not been tested.
package logtest
