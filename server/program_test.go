package server_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/server"
)

func message(channel, data string) fanfare.Message {
	return fanfare.Message{Channel: channel, Data: data}
}

// TestProgramPublishes (P1, P6): a program publishes with every check of HTTP, and what it
// publishes is heard and kept as what comes over HTTP.
func TestProgramPublishes(t *testing.T) {
	oneKind(t, "a program has no connection")
	f := start(t, server.Options{Publish: server.PublishOptions{MaxEventBytes: 100, MaxRequestBytes: 150}})
	ctx := t.Context()
	heard := f.stream("/v1/events?channel=a")
	receipt, err := f.srv.Publish(ctx, fanfare.Message{Channel: "a", Type: "price", Data: "1\r\n2"}, message("a", "3"))
	if err != nil || len(receipt.Positions) != 2 || receipt.Positions[1] != receipt.Positions[0]+1 {
		t.Fatalf("%+v, %v", receipt, err)
	}
	if e := heard.next(); e.Type != "price" || e.Data != "1\n2" || e.LastEventID != receipt.Positions[0].String() {
		t.Errorf("%+v", e)
	}
	if page := f.call("GET", "/v1/history?channel=a", ""); !strings.Contains(page.body, `"data":"1\r\n2"`) ||
		!strings.Contains(page.body, `"event":"price"`) {
		t.Error(page.body)
	}

	keyed := fanfare.Message{Channel: "a", Data: "once", Key: "k1"}
	first, err := f.srv.Publish(ctx, keyed)
	again, errAgain := f.srv.Publish(ctx, keyed)
	if err != nil || errAgain != nil || first.Replayed || !again.Replayed || again.Positions[0] != first.Positions[0] {
		t.Errorf("%+v %v, then %+v %v", first, err, again, errAgain)
	}
	before := f.log.Status().Durable
	conflict := keyed
	conflict.Data = "twice"
	for _, c := range []struct {
		code     fanfare.Code
		says     string
		messages []fanfare.Message
	}{
		{fanfare.CodeInvalid, "1 to 1000", nil},
		{fanfare.CodeInvalid, "1 to 1000", make([]fanfare.Message, 1001)},
		{fanfare.CodeInvalid, "channel", []fanfare.Message{message("", "x")}},
		{fanfare.CodeInvalid, "message 1 of 2: channel", []fanfare.Message{message("a", "x"), message("a*", "x")}},
		{fanfare.CodeForbidden, "begins with '$'", []fanfare.Message{message("$sys", "x")}},
		{fanfare.CodeInvalid, "heartbeat", []fanfare.Message{{Channel: "a", Type: "heartbeat"}}},
		{fanfare.CodeInvalid, "UTF-8", []fanfare.Message{message("a", "\xff")}},
		{fanfare.CodeTooLarge, "(max-event-bytes)", []fanfare.Message{message("a", strings.Repeat("x", 101))}},
		{fanfare.CodeTooLarge, "(max-request-bytes)",
			[]fanfare.Message{message("a", strings.Repeat("x", 80)), message("a", strings.Repeat("x", 80))}},
		{fanfare.CodeInvalid, "key", []fanfare.Message{{Channel: "a", Key: "é"}}},
		{fanfare.CodeConflict, "", []fanfare.Message{conflict}},
	} {
		_, err := f.srv.Publish(ctx, c.messages...)
		if fanfare.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, want %s %q", err, c.code, c.says)
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := f.srv.Publish(gone, message("a", "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if now := f.log.Status().Durable; now != before {
		t.Errorf("something of what was refused was stored: %v, then %v", before, now)
	}
}

// take returns the texts of at most `most` deliveries, and the loop's error.
func take(f *fixture, sub fanfare.Subscription, most int) (texts []string, err error) {
	for d, e := range f.srv.Subscribe(f.t.Context(), sub) {
		if e != nil {
			return texts, e
		}
		if texts = append(texts, text(d)); len(texts) == most {
			break
		}
	}
	return texts, nil
}

func text(d fanfare.Delivery) string {
	if d.Gap != nil {
		return fmt.Sprintf("gap %s", d.Gap.Reason)
	}
	return fmt.Sprintf("%s %s %q", d.Event.Channel, d.Event.Type, d.Event.Data)
}

// TestProgramListens (P2, P3, P4): a loop starts where its subscription says, and hears events as
// they were published.
func TestProgramListens(t *testing.T) {
	oneKind(t, "a program has no connection")
	f := start(t, server.Options{Streams: server.StreamOptions{TailBytes: 1}}, "trimmed=count:1") // from the log
	receipt, err := f.srv.Publish(t.Context(), message("trimmed", "0"), message("a", "1"),
		message("b/x", "2\r3\r\n4\n"),
		fanfare.Message{Channel: "a", Type: "price", Data: ""}, message("trimmed", "5"))
	if err != nil {
		t.Fatal(err)
	}
	at := receipt.Positions
	began := time.Now()
	one, two, three := `a message "1"`, `b/x message "2\r3\r\n4\n"`, `a price ""`
	for _, c := range []struct {
		sub  fanfare.Subscription
		want []string
	}{
		{fanfare.Subscription{Patterns: []string{"a", "b/*"}, All: true}, []string{one, two, three}},
		{fanfare.Subscription{Patterns: []string{"a", "b/*"}, Last: 2}, []string{two, three}},
		{fanfare.Subscription{Patterns: []string{"a", "a"}, Since: began.Add(-time.Hour)}, []string{one, three}},
		{fanfare.Subscription{Patterns: []string{"**"}, After: at[2]}, []string{three, `trimmed message "5"`}},
		{fanfare.Subscription{Patterns: []string{"trimmed"}, After: at[0] - 1},
			[]string{"gap trimmed", `trimmed message "5"`}},
		{fanfare.Subscription{Patterns: []string{"a"}, After: at[4] + 1000}, []string{"gap future", one, three}},
	} {
		got, err := take(f, c.sub, len(c.want))
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%+v: %v (-want +got):\n%s", c.sub, err, diff)
		}
		got = nil
		for d, err := range f.srv.History(t.Context(), c.sub) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, text(d))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("history of %+v (-want +got):\n%s", c.sub, diff)
		}
	}
	for d, err := range f.srv.History(t.Context(), fanfare.Subscription{Patterns: []string{"none"}, Last: 3}) {
		t.Errorf("%+v, %v", d, err)
	}
	for _, c := range []struct {
		sub  fanfare.Subscription
		says string
	}{
		{fanfare.Subscription{}, "needs a pattern"},
		{fanfare.Subscription{Patterns: []string{"a", "**/a"}}, "**"},
		{fanfare.Subscription{Patterns: []string{"a"}, All: true, Last: 1}, "one start"},
		{fanfare.Subscription{Patterns: []string{"a"}, Last: -1}, "Last is -1"},
	} {
		if _, err := take(f, c.sub, 1); fanfare.CodeOf(err) != fanfare.CodeInvalid ||
			!strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, want %q", c.sub, err, c.says)
		}
	}
}

// TestProgramCarriesOn (P3): a loop that begins at the position of the last delivery, also of a
// gap, hears what follows, once.
func TestProgramCarriesOn(t *testing.T) {
	oneKind(t, "a program has no connection")
	f := start(t, server.Options{}, "a=count:3")
	var at fanfare.Position
	var got []string
	next := make(chan string)
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range 20 {
			if _, err := f.srv.Publish(t.Context(), message("a", fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
			if i >= 10 {
				next <- ""
			}
		}
	})
	for range 10 {
		<-next
		for d, err := range f.srv.Subscribe(t.Context(),
			fanfare.Subscription{Patterns: []string{"a"}, After: max(at, 1)}) {
			if err != nil {
				t.Fatal(err)
			}
			at = d.Position()
			if got = append(got, text(d)); d.Gap == nil {
				break // the next loop begins in the middle
			}
		}
	}
	writer.Wait()
	if got[0] != "gap lost" && got[0] != "gap trimmed" {
		t.Errorf("first came %q", got[0])
	}
	heard := map[string]bool{}
	for _, text := range got {
		if heard[text] && !strings.HasPrefix(text, "gap") {
			t.Errorf("%s came twice", text)
		}
		heard[text] = true
	}
	for d, err := range f.srv.History(t.Context(), fanfare.Subscription{Patterns: []string{"a"}, After: at}) {
		if err != nil {
			t.Fatal(err)
		}
		at = d.Position()
	}
	if at != f.log.Status().Durable {
		t.Errorf("at %v, and the newest is %v", at, f.log.Status().Durable)
	}
}

// TestProgramLags (P5): a loop whose body is slow loses nothing, and what its frames took is not
// held for it.
func TestProgramLags(t *testing.T) {
	oneKind(t, "a program has no connection")
	f := start(t, server.Options{Streams: server.StreamOptions{TailBytes: 64 << 10}})
	const events = 2000
	ready := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		n := 0
		for d, err := range f.srv.Subscribe(t.Context(), fanfare.Subscription{Patterns: []string{"**"}, All: true}) {
			if n == 0 {
				<-ready
			}
			if err != nil || d.Event.Data != fmt.Sprint(n)+strings.Repeat("x", 1000) {
				done <- fmt.Errorf("event %d: %.20q, %v", n, d.Event.Data, err)
				return
			}
			if n++; n == events {
				break
			}
		}
		done <- nil
	}()
	for i := 0; i < events; i += 100 {
		var list []fanfare.Message
		for j := range 100 {
			list = append(list, message("a", fmt.Sprint(i+j)+strings.Repeat("x", 1000)))
		}
		if _, err := f.srv.Publish(t.Context(), list...); err != nil {
			t.Fatal(err)
		}
	}
	close(ready)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestProgramLoopEnds (P7): with its context, with a drain, when the hub closes, and where no
// stream may open; always with one error.
func TestProgramLoopEnds(t *testing.T) {
	oneKind(t, "a program has no connection")
	ended := func(f *fixture, ctx context.Context) <-chan error {
		c := make(chan error, 2)
		begun := make(chan struct{})
		go func() {
			defer close(c)
			first := true
			for _, err := range f.srv.Subscribe(ctx, fanfare.Subscription{Patterns: []string{"a"}, All: true}) {
				if err != nil {
					c <- err
				} else if first {
					first = false
					close(begun)
				}
			}
		}()
		<-begun
		return c
	}
	one := func(c <-chan error) error {
		err, more := <-c, error(nil)
		for more = range c {
			t.Errorf("%v, and then %v", err, more)
		}
		return err
	}
	for name, end := range map[string]func(f *fixture, cancel func()){
		"context": func(_ *fixture, cancel func()) { cancel() },
		"drain": func(f *fixture, _ func()) {
			if err := f.srv.Drain(context.Background(), 0); err != nil {
				t.Error(err)
			}
		},
		"close": func(f *fixture, _ func()) {
			if err := f.srv.Close(); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			oneKind(t, "a program has no connection")
			f := start(t, server.Options{Streams: server.StreamOptions{Max: 1}})
			if _, err := f.srv.Publish(t.Context(), message("a", "x")); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c := ended(f, ctx)
			if _, err := take(f, fanfare.Subscription{Patterns: []string{"a"}},
				1); fanfare.CodeOf(err) != fanfare.CodeOverloaded {
				t.Errorf("beyond MaxStreams: %v", err)
			}
			end(f, cancel)
			if err := one(c); (name == "context") != errors.Is(err, context.Canceled) ||
				(name != "context") != (fanfare.CodeOf(err) == fanfare.CodeUnavailable) {
				t.Errorf("%v", err)
			}
		})
	}
}
