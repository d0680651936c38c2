// Package stats is GET /v1/stats: the hub's figures for the page at / and for scripts, as JSON and
// as a stream. It keeps the last fifteen minutes in memory.
package stats
