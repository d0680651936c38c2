package server_test

import (
	"io"
	"net"
	"testing"

	"github.com/fanfare-hub/fanfare/server"
)

// TestVanishedStreamAndItsSuccessor: the PC has lost its power while commands were under way. Its
// next stream brings them, and goes on; when the hub notices at last that the older one is dead,
// the PC does not go back to where that one stood.
func TestVanishedStreamAndItsSuccessor(t *testing.T) {
	if eachKind(t, TestVanishedStreamAndItsSuccessor) {
		return
	}
	f := start(t, server.Options{})
	old := f.pcOf("1", "2")
	old.vanish()
	f.sends("under way")
	c := f.pc("1", "2")
	c.hears("the newer stream", "under way")
	f.sends("a", "b")
	c.hears("and again", "a", "b")
	old.reset()
	f.untilStreams(1)
	f.off(c)
	f.sends("missed")
	f.pc("1", "2").hears("when both have ended", "missed")
}

// TestForgottenIsToldUntilItIsHeard (P4): a PC whose connection breaks before it has got the gap is
// told of it once more.
func TestForgottenIsToldUntilItIsHeard(t *testing.T) {
	oneKind(t, "the peer must acknowledge nothing from the first byte on, which a TLS or HTTP/2 connection does "+
		"not survive")
	p := startPassing(t, server.Options{Stores: server.StoreOptions{ResumeFor: day}})
	pc := p.at("10.0.0.1")
	p.sends("heard")
	pc.hears("connected", "heard")
	p.off(pc)
	p.pass(2 * day)
	young := p.sends("young")[0]
	for range 2 {
		conn, err := net.Dial("tcp", p.addr())
		if err != nil {
			t.Fatal(err)
		}
		w := &wired{f: p.fixture, tcp: conn.(*net.TCPConn)}
		w.vanish()
		if _, err := io.WriteString(conn,
			"GET "+pcPath("1", "2")+" HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		p.untilStreams(1)
		w.reset()
		p.untilStreams(0)
	}
	p.restart()
	c, g := p.forgottenGap("after two breaks and a restart")
	if g.Oldest != young {
		t.Errorf("the oldest is %s, want %s", g.Oldest, young)
	}
	c.hears("what is young", "young")
	p.off(c)
	p.at("10.0.0.1").hears("when it has heard")
}
