// Package examples holds four worked examples, one for each use of Server-Sent Events: a page and a
// publisher each. The hub serves the pages under /examples/; the publishers are programs (go run
// ./examples/quotes).
package examples

import "embed"

// Files are the pages.
//
//go:embed index.html hub.js shared.css */index.html */app.js
var Files embed.FS
