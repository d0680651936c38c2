//go:build unix

package main

import (
	"os"
	"syscall"
	"testing"
)

// hangUpSelf has the hub of this process read its settings again.
func hangUpSelf(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}
