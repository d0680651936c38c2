// Package e2e tests the real binary from outside, with the clients that people use: the store PCs'
// Python class, EventSource in Chromium, curl, and the command line. e2e/setup installs them; a
// client that cannot be had is skipped with a line that says so.
package e2e
