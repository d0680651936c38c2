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

// Listener prepares l for web, an http.Server whose Handler is s or leads to s: call web.Serve with
// the returned listener. It bounds the kernel's buffers for a peer that never reads. Over TLS and
// HTTP/2, s then knows as much of its peers as over plain HTTP/1.1: which bytes they have
// acknowledged, so that a PC gets no command twice and loses none, and whether they have vanished.
// With a config the listener speaks TLS itself, HTTP/2 included: do not call ServeTLS. The listener
// must stand below HTTP/2 and above TLS, where net/http has no place for other code. So web takes
// the connections for plain ones, with HTTP/2 by prior knowledge, and the listener sets
// Request.TLS. Without a config there is HTTP/2 if web.Protocols has UnencryptedHTTP2.
//
// Plain HTTP/1.1 needs no such listener, nor does HTTP/1.1 by ServeTLS. A stream over an HTTP/2
// connection from another listener starts again where it started, after any end.
func (s *Server) Listener(web *http.Server, l net.Listener, config *tls.Config) net.Listener {
	protocols := protocolsOf(web)
	if config != nil {
		config = config.Clone()
		config.NextProtos = nextProtos(config.NextProtos, protocols)
		if slices.Contains(config.NextProtos, "h2") {
			protocols.SetUnencryptedHTTP2(true) // web takes the connections for plain ones
		}
	}
	web.Protocols = protocols
	web.ConnContext = withPeer(web.ConnContext)
	web.Handler = s.withTLS(web.Handler)
	return peer.Listener(l, config, protocols.UnencryptedHTTP2(), func(remote net.Addr, err error) {
		s.o.Logger.Debug("TLS handshake failed", slog.String("remote", remote.String()), slog.Any("err", err))
	})
}

// protocolsOf returns the protocols that web should speak, by the rules of net/http.
func protocolsOf(web *http.Server) *http.Protocols {
	p := new(http.Protocols)
	switch {
	case web.Protocols != nil:
		*p = *web.Protocols
	default:
		p.SetHTTP1(true)
		p.SetHTTP2(web.TLSNextProto == nil) // without it that switches HTTP/2 off
	}
	if p.HTTP2() && !speaksHTTP2() {
		p.SetHTTP2(false)
	}
	return p
}

// speaksHTTP2 tells whether net/http serves HTTP/2: with GODEBUG=http2server=0 it does not, and
// clients must not be offered it.
func speaksHTTP2() bool {
	probe := &http.Server{Protocols: new(http.Protocols)}
	probe.Protocols.SetUnencryptedHTTP2(true)
	_ = probe.Serve(noListener{}) // sets HTTP/2 up, and ends
	return probe.TLSNextProto != nil
}

type noListener struct{}

func (noListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (noListener) Close() error              { return nil }
func (noListener) Addr() net.Addr            { return &net.TCPAddr{} }

// nextProtos returns the protocols to offer by ALPN: those of config, or else the versions of HTTP
// that web should speak.
func nextProtos(names []string, p *http.Protocols) (offered []string) {
	if len(names) == 0 {
		names = []string{"h2", "http/1.1"}
	}
	for _, name := range names {
		if name == "h2" && !p.HTTP2() || name == "http/1.1" && !p.HTTP1() {
			continue
		}
		offered = append(offered, name)
	}
	return offered
}

// withPeer lets requests find their connection.
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

// withTLS sets the fields that net/http would set if it knew of TLS.
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
