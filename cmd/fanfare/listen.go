package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/fanfare-hub/fanfare/pebblelog"
)

// listeners are the sockets that the hub listens on. The parent process hands them over (socket
// activation by systemd, LISTEN_FDS), or the hub opens them.
type listeners struct {
	public net.Listener
	admin  net.Listener // nil: none
	held   bool         // public stays open when the hub closes it
}

// takeListeners takes the sockets that were handed over. A socket with the name admin is for
// operators, the other one for all clients.
func takeListeners(c *settings) (*listeners, error) {
	l := &listeners{}
	byName, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("take the sockets that were handed over: %w", err)
	}
	for name, list := range byName {
		for _, one := range list {
			switch {
			case one == nil:
				err = errors.New("a socket that was handed over cannot be listened on: want ListenStream")
			case name == "admin" && l.admin == nil:
				l.admin = one
			case l.public == nil:
				l.public, l.held = one, true
			default:
				err = errors.New("more sockets were handed over than the hub listens on: want one, and perhaps one " +
					"with the name admin")
			}
		}
	}
	if l.held && err == nil && l.public.Addr().Network() != "unix" {
		err = c.checkLoopback("the socket that was handed over,", l.public.Addr().String())
	}
	if err != nil {
		l.close()
		return nil, &exitError{exitUsage, err}
	}
	return l, nil
}

// closeHeld closes a socket that other processes hold too. They all share the socket's blocking
// mode, and the process that hands it to the next hub may switch it to blocking: an accept of this
// hub then waits for a connection, and Close waits for the accept. So closeHeld makes a connection,
// which is closed at once.
func closeHeld(l net.Listener) {
	doNotBlock(l)
	closed := make(chan struct{})
	go func() {
		_ = l.Close()
		close(closed)
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-closed:
			return
		case <-tick.C:
			if conn, err := net.DialTimeout(l.Addr().Network(), l.Addr().String(), time.Second); err == nil {
				_ = conn.Close()
			}
		}
	}
}

// open opens the sockets that were not handed over. With a held socket the hub before may still be
// closing its admin listener.
func (l *listeners) open(c *settings) (err error) {
	if l.public == nil {
		if l.public, err = net.Listen("tcp", c.Addr); err != nil {
			return fmt.Errorf("listen on %s: %w", c.Addr, err)
		}
	}
	if l.admin != nil || c.AdminAddr == "" {
		return nil
	}
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if l.admin, err = net.Listen("tcp", c.AdminAddr); err == nil {
			return nil
		}
		if !l.held || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return fmt.Errorf("listen on --admin-addr %s: %w", c.AdminAddr, err)
		}
	}
}

func (l *listeners) close() {
	for _, one := range []net.Listener{l.public, l.admin} {
		if one != nil {
			_ = one.Close()
		}
	}
}

// notify tells systemd how the hub is; without systemd it does nothing.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }

// watchdog tells systemd that the hub lives, as often as systemd asks for, while the log answers
// calls: a full disk is no reason for a restart, a hub that hangs is one.
func watchdog(log *pebblelog.Log) (stop func()) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(interval / 3)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = log.Status() // hangs when the log's lock does
				notify(daemon.SdNotifyWatchdog)
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}
