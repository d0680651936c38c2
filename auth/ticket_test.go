package auth

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

func openLog(t *testing.T, dir string) *pebblelog.Log {
	t.Helper()
	l, err := pebblelog.Open(pebblelog.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func patterns(texts ...string) (list []fanfare.Pattern) {
	for _, text := range texts {
		list = append(list, pattern(text))
	}
	return list
}

// TestTickets: soon or never, for their channels alone, until the token's end, across a restart
// once they were used.
func TestTickets(t *testing.T) {
	dir := t.TempDir()
	log := openLog(t, dir)
	key := []byte(strings.Repeat("k", TicketKeyBytes))
	clock := time.Now()
	newTickets := func(l Log) *Tickets {
		tickets := must(NewTickets(key, l))
		tickets.now = func() time.Time { return clock }
		return tickets
	}
	tickets := newTickets(log)
	p := &fanfare.Principal{Subject: "ada", TokenID: "t1", Expires: clock.Add(time.Hour),
		IssuedAt: clock.Add(-time.Minute), Grants: fanfare.Grants{fanfare.ActionPublish: patterns("**")}}
	text, expires, err := tickets.Make(p, patterns("a", "b/**"))
	if err != nil || !expires.Equal(p.Expires) {
		t.Fatal(err, expires)
	}
	used, err := tickets.Verify(t.Context(), text, patterns("b/**", "a", "a"))
	if err != nil || used.Subject != "ada" || used.TokenID != "t1" ||
		used.Expires.UnixMilli() != p.Expires.UnixMilli() || used.IssuedAt.UnixMilli() != p.IssuedAt.UnixMilli() ||
		used.Ticket == "" {
		t.Fatalf("%+v %v", used, err)
	}
	if used.May(fanfare.ActionPublish, channel("a")) || used.Unlimited ||
		!used.MayAll(fanfare.ActionSubscribe, pattern("b/**")) || used.May(fanfare.ActionSubscribe, channel("c")) {
		t.Errorf("the ticket may %+v", used.Grants)
	}
	for _, others := range [][]fanfare.Pattern{patterns("a"), patterns("a", "b/**", "c"), patterns("a", "b/*"), nil} {
		if _, err := tickets.Verify(t.Context(), text, others); fanfare.CodeOf(err) != fanfare.CodeForbidden {
			t.Errorf("%v: %v", others, err)
		}
	}
	// Changed, cut, or sealed with another key.
	sealed := must(base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, "ft_")))
	for i := range sealed {
		changed := append([]byte(nil), sealed...)
		changed[i] ^= 1
		if _, err := tickets.Verify(t.Context(), "ft_"+base64.RawURLEncoding.EncodeToString(changed),
			patterns("a", "b/**")); err == nil {
			t.Fatalf("byte %d was changed, and nobody noticed", i)
		}
	}
	foreign, _, _ := must(NewTickets(nil, nil)).Make(p, patterns("a"))
	for _, bad := range []string{"", "ft_", "ft_!!", text[3:], text[:40], foreign, text + "A",
		strings.Repeat("ft_", 1000)} {
		if _, err := tickets.Verify(t.Context(), bad, patterns("a",
			"b/**")); fanfare.CodeOf(err) != fanfare.CodeUnauthenticated || strings.Contains(err.Error(), text[10:30]) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	// Not opened in time.
	late, _, _ := tickets.Make(p, patterns("a"))
	if err := tickets.Opened(t.Context(), used); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(TicketOpensWithin + time.Second)
	_, err = tickets.Verify(t.Context(), late, patterns("a"))
	wantRefused(t, "late", late, err, fanfare.ReasonExpiredToken)
	if _, err := tickets.Verify(t.Context(), text, patterns("a", "b/**")); err != nil {
		t.Errorf("a reconnect: %v", err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	// After a restart.
	log = openLog(t, dir)
	defer log.Close()
	again := newTickets(log)
	if _, err := again.Verify(t.Context(), text, patterns("a", "b/**")); err != nil {
		t.Errorf("a reconnect after a restart: %v", err)
	}
	_, err = again.Verify(t.Context(), late, patterns("a"))
	wantRefused(t, "late, after a restart", late, err, fanfare.ReasonExpiredToken)
	clock = clock.Add(time.Hour)
	_, err = again.Verify(t.Context(), text, patterns("a", "b/**"))
	wantRefused(t, "after the token's end", text, err, fanfare.ReasonExpiredToken)
	// A key without an end: twelve hours.
	if _, expires, _ := again.Make(&fanfare.Principal{Subject: "pos"},
		patterns("a")); !expires.Equal(clock.Add(TicketLastsFor)) {
		t.Errorf("%s", expires)
	}
	if _, err := NewTickets([]byte("short"), nil); err == nil {
		t.Error("a short key was taken")
	}
}

func TestUsedTicketsAreBounded(t *testing.T) {
	tickets := must(NewTickets(nil, nil))
	for range 25_000 {
		text, _, _ := tickets.Make(&fanfare.Principal{Expires: time.Now().Add(time.Millisecond)}, patterns("a"))
		p, err := tickets.Verify(t.Context(), text, patterns("a"))
		if err == nil {
			_ = tickets.Opened(context.Background(), p)
		}
	}
	if n := len(tickets.used); n > 11_000 {
		t.Errorf("%d tickets are remembered", n)
	}
}

// TestRevocations: by token and by subject, across restarts, until they end; and no more than there
// may be.
func TestRevocations(t *testing.T) {
	dir := t.TempDir()
	log := openLog(t, dir)
	r := must(NewRevocations(t.Context(), log, RevocationOptions{Most: 3}))
	clock := time.Now().Truncate(time.Second)
	r.now = func() time.Time { return clock }
	ada := &fanfare.Principal{Subject: "ada", TokenID: "t1", IssuedAt: clock.Add(-time.Minute)}
	newer := &fanfare.Principal{Subject: "ada", TokenID: "t2", IssuedAt: clock.Add(DefaultLeeway + 2*time.Second)}
	bob := &fanfare.Principal{Subject: "bob", TokenID: "t3"}
	for _, p := range []*fanfare.Principal{ada, newer, bob, {}} {
		if err := r.Check(p); err != nil {
			t.Error(err)
		}
	}
	if err := r.Revoke(t.Context(), nil, []string{"ada"}, clock.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := r.Revoke(t.Context(), []string{"t3"}, nil, clock.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	check := func(when string, r *Revocations, p *fanfare.Principal, revoked bool) {
		t.Helper()
		if err := r.Check(p); (err != nil) != revoked {
			t.Errorf("%s: %s/%s: %v", when, p.Subject, p.TokenID, err)
		}
	}
	check("at once", r, ada, true)
	check("a token of the same second", r, &fanfare.Principal{Subject: "ada", IssuedAt: clock}, true)
	check("a token of an issuer whose clock is ahead", r,
		&fanfare.Principal{Subject: "ada", IssuedAt: clock.Add(DefaultLeeway)}, true)
	check("an API key made since", r,
		&fanfare.Principal{Subject: "ada", TokenID: "key-1", IssuedAt: clock.Add(time.Second)}, false)
	check("a token that does not say when", r, &fanfare.Principal{Subject: "ada"}, true)
	check("a newer token", r, newer, false)
	check("at once", r, bob, true)
	check("nobody", r, &fanfare.Principal{}, false)
	check("a subject with the name of a token", r, &fanfare.Principal{Subject: "t3"}, false)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	log = openLog(t, dir)
	defer log.Close()
	again := must(NewRevocations(t.Context(), log, RevocationOptions{Most: 3}))
	again.now = func() time.Time { return clock }
	check("after a restart", again, ada, true)
	check("after a restart", again, bob, true)
	check("after a restart", again, newer, false)
	if err := again.Revoke(t.Context(), []string{"x1"}, nil, clock.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := again.Revoke(t.Context(), []string{"x2"}, nil, clock.Add(time.Hour)); err == nil ||
		!strings.Contains(err.Error(), "(max-revocations)") {
		t.Errorf("one too many: %v", err)
	}
	clock = clock.Add(2 * time.Minute)
	check("when it is over", again, bob, false)
	if err := again.Revoke(t.Context(), []string{"x2"}, nil, clock.Add(time.Hour)); err != nil || again.Len() != 3 {
		t.Errorf("%v, %d", err, again.Len())
	}
}

// TestRevokingIsAllOrNothing: where there is no room for all, none is revoked; and what was revoked
// for longer stays so.
func TestRevokingIsAllOrNothing(t *testing.T) {
	log := openLog(t, t.TempDir())
	defer log.Close()
	r := must(NewRevocations(t.Context(), log, RevocationOptions{Most: 2}))
	clock := time.Now()
	r.now = func() time.Time { return clock }
	err := r.Revoke(t.Context(), []string{"t1", "t2"}, []string{"ada"}, clock.Add(time.Hour))
	if e, ok := err.(*fanfare.Error); !ok || e.Reason != fanfare.ReasonMaxRevocations || r.Len() != 0 ||
		r.Check(&fanfare.Principal{TokenID: "t1"}) != nil {
		t.Errorf("three where two may be: %v, %d are revoked", err, r.Len())
	}
	for _, lasts := range []time.Duration{time.Hour, time.Minute} {
		if err := r.Revoke(t.Context(), []string{"t1"}, nil, clock.Add(lasts)); err != nil {
			t.Fatal(err)
		}
	}
	clock = clock.Add(2 * time.Minute)
	again := must(NewRevocations(t.Context(), log, RevocationOptions{}))
	again.now = r.now
	for _, r := range []*Revocations{r, again} {
		if r.Check(&fanfare.Principal{TokenID: "t1"}) == nil {
			t.Error("a shorter revocation lifted a longer one")
		}
	}
}

// hesitant is a log whose callers are held up for a moment before they are served, as they may be
// by the scheduler.
type hesitant struct{ Log }

func (h hesitant) Append(b *fanfare.Batch, done func(fanfare.Receipt, error)) {
	for range rand.IntN(20) {
		runtime.Gosched()
	}
	h.Log.Append(b, done)
}

// TestRevokedAtOnce: of two revocations of one token at the same time the longer one is in force,
// also after a restart.
func TestRevokedAtOnce(t *testing.T) {
	dir := t.TempDir()
	log := openLog(t, dir)
	r := must(NewRevocations(t.Context(), hesitant{log}, RevocationOptions{}))
	clock := time.Now()
	r.now = func() time.Time { return clock }
	var running sync.WaitGroup
	for i := range 100 {
		for _, lasts := range []time.Duration{time.Minute, time.Hour} {
			running.Go(func() {
				if err := r.Revoke(t.Context(), []string{fmt.Sprint("t", i)}, nil, clock.Add(lasts)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	running.Wait()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	log = openLog(t, dir)
	defer log.Close()
	again := must(NewRevocations(t.Context(), log, RevocationOptions{}))
	later := clock.Add(2 * time.Minute)
	again.now = func() time.Time { return later }
	for i := range 100 {
		if again.Check(&fanfare.Principal{TokenID: fmt.Sprint("t", i)}) == nil {
			t.Errorf("token %d: the shorter revocation is the one that was stored", i)
		}
	}
}

// TestRevocationKeepsItsMoment: a clock that is set back, or one that two calls have read in the
// other order, frees no token.
func TestRevocationKeepsItsMoment(t *testing.T) {
	r := must(NewRevocations(t.Context(), nil, RevocationOptions{}))
	clock := time.Now()
	r.now = func() time.Time { return clock }
	ada := &fanfare.Principal{Subject: "ada", TokenID: "t", IssuedAt: clock}
	for _, at := range []time.Duration{0, -time.Hour} {
		clock = ada.IssuedAt.Add(at)
		if err := r.Revoke(t.Context(), nil, []string{"ada"}, clock.Add(3*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if r.Check(ada) == nil {
			t.Errorf("with the clock at %v the token is good again", at)
		}
	}
}
