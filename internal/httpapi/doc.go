// Package httpapi is the native HTTP API: streams, publishes, history. It translates between HTTP
// and the nouns of package fanfare, and keeps no state of its own.
package httpapi
