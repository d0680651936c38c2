package server

import (
	"bufio"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare/sse"
)

// accessRecord notes the answer to a request.
type accessRecord struct {
	http.ResponseWriter
	status  int
	bytes   int64
	refused bool // a stream that was refused, on a connection that was taken over
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
	return http.NewResponseController(a.ResponseWriter).Hijack()
}

// NoteStatus notes the status of an answer on a connection that was taken over and is no stream.
func (a *accessRecord) NoteStatus(status int) { a.status, a.refused = status, true }

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
	isStream := !a.refused && a.status == http.StatusOK &&
		strings.HasPrefix(a.Header().Get("Content-Type"), sse.MediaType)
	logger.Info("request", slog.String("method", r.Method), slog.String("path", r.URL.EscapedPath()),
		slog.Int("status", a.status),
		slog.Int64("bytes", a.bytes), slog.Bool("stream", isStream), slog.Duration("took",
			time.Since(began)), slog.String("remote", r.RemoteAddr))
}

// SetAccessLog replaces Options.AccessLog while the server runs.
func (s *Server) SetAccessLog(n int) { s.accessLog.Store(int64(n)) }
