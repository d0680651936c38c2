package server

import (
	"bufio"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// accessRecord notes what a request was answered.
type accessRecord struct {
	http.ResponseWriter
	status int
	bytes  int64
	taken  bool // a stream took the connection over
}

func newAccessRecord(w http.ResponseWriter) *accessRecord {
	return &accessRecord{ResponseWriter: w, status: http.StatusOK}
}

func (a *accessRecord) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *accessRecord) Write(b []byte) (int, error) {
	n, err := a.ResponseWriter.Write(b)
	a.bytes += int64(n)
	return n, err
}

// Hijack implements http.Hijacker, as far as the writer below does.
func (a *accessRecord) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(a.ResponseWriter).Hijack()
	a.taken = a.taken || err == nil
	return conn, buffered, err
}

// NoteStatus notes what is answered on a connection that was taken over and is no stream.
func (a *accessRecord) NoteStatus(status int) { a.status, a.taken = status, false }

// Unwrap lets http.ResponseController reach the writer below.
func (a *accessRecord) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// statusNote notes the status alone.
type statusNote struct {
	http.ResponseWriter
	status int
}

func (n *statusNote) WriteHeader(status int) {
	n.status = status
	n.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the writer below.
func (n *statusNote) Unwrap() http.ResponseWriter { return n.ResponseWriter }

// log writes the record: never the query, which may hold a token.
func (a *accessRecord) log(logger *slog.Logger, r *http.Request, began time.Time) {
	logger.Info("request", slog.String("method", r.Method), slog.String("path", r.URL.EscapedPath()), slog.Int("status", a.status),
		slog.Int64("bytes", a.bytes), slog.Bool("stream", a.taken), slog.Duration("took", time.Since(began)), slog.String("remote", r.RemoteAddr))
}

// SetAccessLog replaces Options.AccessLog while the server runs.
func (s *Server) SetAccessLog(n int) { s.accessLog.Store(int64(n)) }
