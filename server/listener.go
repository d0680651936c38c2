package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"slices"

	"github.com/fanfare-hub/fanfare/internal/peer"
)

// Listener readies l for web, an http.Server whose Handler is s, or leads to it: call web.Serve with what it returns. The kernel's
// buffers for a reader that never reads are bounded then, and s knows its peers over TLS and HTTP/2 as it does over plain HTTP/1.1:
// what they have acknowledged, so that a PC gets no command twice and loses none, and that they have vanished. With a config it speaks
// TLS itself, HTTP/2 included: do not call ServeTLS. It has to stand below HTTP/2 and above TLS, where net/http lets nothing in; so
// web takes the connections for plain ones, with HTTP/2 by prior knowledge, and gets Request.TLS from here. Without a config
// there is HTTP/2 if web.Protocols has UnencryptedHTTP2.
//
// Plain HTTP/1.1 does without, and so does HTTP/1.1 by ServeTLS. A stream over an HTTP/2 connection from elsewhere starts again where it
// started, after whatever end.
func (s *Server) Listener(web *http.Server, l net.Listener, config *tls.Config) net.Listener {
	protocols := new(http.Protocols)
	if web.Protocols != nil {
		*protocols = *web.Protocols
	} else {
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true)
	}
	if config != nil {
		config = config.Clone()
		if len(config.NextProtos) == 0 {
			config.NextProtos = nextProtos(protocols)
		}
		if slices.Contains(config.NextProtos, "h2") {
			protocols.SetUnencryptedHTTP2(true) // as it seems to web
		}
	}
	web.Protocols = protocols
	web.ConnContext = withPeer(web.ConnContext)
	web.Handler = s.withTLS(web.Handler)
	return peer.Listener(l, config, protocols.UnencryptedHTTP2(), func(remote net.Addr, err error) {
		s.o.Logger.Debug("TLS handshake failed", slog.String("remote", remote.String()), slog.Any("err", err))
	})
}

// nextProtos is what is offered by ALPN.
func nextProtos(p *http.Protocols) (names []string) {
	if p.HTTP2() {
		names = append(names, "h2")
	}
	if p.HTTP1() {
		names = append(names, "http/1.1")
	}
	return names
}

// withPeer has requests know their connection.
func withPeer(next func(context.Context, net.Conn) context.Context) func(context.Context, net.Conn) context.Context {
	return func(ctx context.Context, conn net.Conn) context.Context {
		if next != nil {
			ctx = next(ctx, conn)
		}
		if c, ok := conn.(*peer.Conn); ok {
			ctx = peer.NewContext(ctx, c)
		}
		return ctx
	}
}

// withTLS sets what net/http would set if it knew of TLS.
func (s *Server) withTLS(next http.Handler) http.Handler {
	if next == nil {
		next = s
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := peer.FromContext(r.Context()); c != nil && r.TLS == nil {
			r.TLS = c.TLS()
		}
		next.ServeHTTP(w, r)
	})
}
