//go:build !linux

package http1

import "net/http"

// Conns takes no connections over on this system: net/http goes on with them.
type Conns struct{}

// New makes Conns.
func New(Options) *Conns { return &Conns{} }

// Wants is false.
func (*Conns) Wants(http.ResponseWriter, *http.Request) bool { return false }

// Take does nothing.
func (*Conns) Take(http.ResponseWriter, *http.Request) {}

// Close does nothing.
func (*Conns) Close() {}

// Len is 0.
func (*Conns) Len() int { return 0 }
