// Package console serves the page at /: a browser of channels, live events, a form to publish, and
// the figures of the hub. The page uses only the public API and /v1/stats. It is embedded, loads
// nothing from elsewhere, and needs no build step.
//
// Each part of the page is a module in the folder page, and app.js imports them. live.js says how
// the page keeps up with a thousand events a second; place.js keeps what the page shows in its
// address; access.js has the token.
package console

import (
	"bytes"
	"embed"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed page
var files embed.FS

// policy lets the pages use their own files and this hub, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Pages serves embedded files.
type Pages struct {
	prefix string // of the path, with a slash at its end
	files  fs.FS
	front  bool // its index.html is the page at /
}

// Page returns the pages of the console, at / and below /console/.
func Page() Pages {
	sub, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the folder is embedded
	}
	return Pages{"/console/", sub, true}
}

// Below returns the pages in a file system, at a prefix that ends with a slash.
func Below(prefix string, files fs.FS) Pages { return Pages{prefix, files, false} }

// Find returns the handler of a path, and false when there is no such file.
func (p Pages) Find(urlPath string) (http.HandlerFunc, bool) {
	name, ok := strings.CutPrefix(urlPath, p.prefix)
	if urlPath == "/" && p.front {
		name, ok = "index.html", true
	} else if ok && p.front && (name == "" || name == "index.html") {
		// Its links are relative to /, so that the page works below any prefix.
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "../")
			w.WriteHeader(http.StatusPermanentRedirect)
		}, true
	}
	if !ok {
		return nil, false
	}
	if name == "" || strings.HasSuffix(name, "/") {
		name += "index.html"
	}
	kind := mime.TypeByExtension(path.Ext(name))
	if !fs.ValidPath(name) || kind == "" {
		return nil, false
	}
	content, err := fs.ReadFile(p.files, name)
	if err != nil {
		return nil, false
	}
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", kind)
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
	}, true
}
