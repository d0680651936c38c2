package sse_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare/sse"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type vector struct {
	Name   string `json:"name"`
	Input  []byte `json:"input_b64"`
	Events []struct {
		Type        string `json:"type"`
		Data        string `json:"data"`
		LastEventID string `json:"lastEventId"`
	} `json:"events"`
	LastEventID string `json:"last_event_id"`
	Retry       *int64 `json:"retry"`
}

// TestVectors runs the vectors that every client of the project reads, whole and cut in every way
// that matters.
func TestVectors(t *testing.T) {
	file, err := os.ReadFile("../contract/sse-parser-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(file, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 100 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	for _, v := range vectors {
		for _, size := range []int{1 << 20, 1, 2, 3, 7} {
			if size > 1 && size < 1<<20 && len(v.Input) > 10000 {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", v.Name, size), func(t *testing.T) { checkVector(t, v, size) })
		}
	}
}

func checkVector(t *testing.T, v vector, size int) {
	var got []sse.Event
	var retry *int64
	p := sse.Parser{Handler: sse.Handler{
		Event: func(e sse.Event) { got = append(got, e) },
		Retry: func(ms int64) { retry = &ms },
	}}
	for rest := v.Input; len(rest) > 0; {
		n := min(size, len(rest))
		if _, err := p.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	var want []sse.Event
	for _, e := range v.Events {
		want = append(want, sse.Event{Type: e.Type, Data: e.Data, LastEventID: e.LastEventID})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if p.LastEventID != v.LastEventID {
		t.Errorf("last event ID %q, want %q", p.LastEventID, v.LastEventID)
	}
	wantRetry := v.Retry
	if wantRetry != nil {
		most := min(*wantRetry, sse.MaxRetry)
		wantRetry = &most
	}
	if diff := cmp.Diff(wantRetry, retry); diff != "" {
		t.Errorf("retry (-want +got):\n%s", diff)
	}
}

func TestDispatchAtOnce(t *testing.T) {
	// A CR ends a line at once: the event must not wait for the byte that might be its LF.
	n := 0
	p := sse.Parser{Handler: sse.Handler{Event: func(sse.Event) { n++ }}}
	_, _ = p.Write([]byte("data: x\r\r"))
	if n != 1 {
		t.Fatalf("%d events after CR CR, want 1", n)
	}
}

func TestTooLong(t *testing.T) {
	for _, in := range []string{strings.Repeat("x", 20),
		"data:" + strings.Repeat("x", 9) + "\ndata:" + strings.Repeat("x", 9) + "\n\n"} {
		p := sse.Parser{MaxEventBytes: 16}
		if _, err := p.Write([]byte(in)); !errors.Is(err, sse.ErrTooLong) {
			t.Errorf("%q: %v, want ErrTooLong", in, err)
		}
		if _, err := p.Write([]byte("\n\ndata:x\n\n")); !errors.Is(err, sse.ErrTooLong) {
			t.Errorf("after too long: %v, want ErrTooLong for good", err)
		}
	}
}

func TestDecoder(t *testing.T) {
	d := sse.NewDecoder(iotest.OneByteReader(strings.NewReader("id: 1\ndata: a\n\n:\nevent: x\ndata: b\n\ndata: cut")))
	for _, want := range []sse.Event{{Type: "message", Data: "a", LastEventID: "1"},
		{Type: "x", Data: "b", LastEventID: "1"}} {
		if got, err := d.Next(); err != nil || got != want {
			t.Fatalf("%+v, %v; want %+v", got, err, want)
		}
	}
	for range 2 {
		if _, err := d.Next(); !errors.Is(err, io.EOF) {
			t.Fatalf("%v, want EOF", err)
		}
	}
}

func TestAppendChunk(t *testing.T) {
	if got := string(sse.AppendChunk(nil, []byte("hello, world, hello"))); got != "13\r\nhello, world, hello\r\n" {
		t.Errorf("%q", got)
	}
	if got := sse.AppendChunk(nil, nil); len(got) != 0 {
		t.Errorf("an empty body made the chunk %q, which would end the message", got)
	}
}

func TestAppendRetry(t *testing.T) {
	for ms, want := range map[int64]string{0: "retry: 1\n", -5: "retry: 1\n", 3000: "retry: 3000\n",
		1 << 40: "retry: 2147483647\n"} {
		if got := string(sse.AppendRetry(nil, ms)); got != want {
			t.Errorf("%d: %q, want %q", ms, got, want)
		}
	}
}

// joined is how data arrives: every kind of line end has become LF.
func joined(data string) string {
	return strings.ReplaceAll(strings.ReplaceAll(data, "\r\n", "\n"), "\r", "\n")
}

// FuzzRoundTrip checks decode(encode(x)) = x, cut at any place, and that nothing in data can forge
// a field.
func FuzzRoundTrip(f *testing.F) {
	for _, data := range []string{"", "x", "a\nb", "\r", "\r\n\r\n", "id: 5\revent: forged\n\n", " lead", "\ufeffx",
		"a\u2028b", "x\x00y"} {
		f.Add("0GZ6X9QF00001", "type", data, 3)
	}
	f.Fuzz(func(t *testing.T, id, event, data string, cut int) {
		if !utf8.ValidString(id) || !utf8.ValidString(event) || !utf8.ValidString(data) {
			t.Skip()
		}
		if strings.ContainsAny(id, "\r\n\x00") || strings.ContainsAny(event, "\r\n\x00") {
			t.Skip()
		}
		wire := sse.AppendEvent(nil, id, event, data)
		var got []sse.Event
		p := sse.Parser{Handler: sse.Handler{Event: func(e sse.Event) { got = append(got, e) }}}
		at := min(max(cut, 0), len(wire))
		_, _ = p.Write(wire[:at])
		_, _ = p.Write(wire[at:])
		want := sse.Event{Type: event, Data: joined(data), LastEventID: id}
		if event == "" {
			want.Type = "message"
		}
		if len(got) != 1 || got[0] != want {
			t.Fatalf("wire %q\ngot  %+v\nwant %+v", wire, got, want)
		}
	})
}

// FuzzParser checks that the parser neither panics nor depends on where its input is cut.
func FuzzParser(f *testing.F) {
	f.Add([]byte("\xef\xbb\xbfid: 1\r\ndata: \xe2\x82\r\rretry:9\n\n: c\n"), 4)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		parse := func(parts ...[]byte) (events []sse.Event, id string) {
			p := sse.Parser{MaxEventBytes: 1 << 20,
				Handler: sse.Handler{Event: func(e sse.Event) { events = append(events, e) }}}
			for _, part := range parts {
				if _, err := p.Write(part); err != nil {
					t.Fatal(err)
				}
			}
			return events, p.LastEventID
		}
		at := min(max(cut, 0), len(in))
		whole, wholeID := parse(in)
		cutUp, cutID := parse(in[:at], in[at:])
		if diff := cmp.Diff(whole, cutUp); diff != "" || wholeID != cutID {
			t.Fatalf("cut at %d of %q: %s", at, in, diff)
		}
		for _, e := range whole {
			if !utf8.ValidString(e.Data) || bytes.ContainsAny([]byte(e.Type), "\r\n") {
				t.Fatalf("bad event %+v", e)
			}
		}
	})
}

func ExampleAppendEvent() {
	fmt.Printf("%s", sse.AppendEvent(nil, "0GZ6X9QF00001", "greeting", "hello\nworld"))
	// Output:
	// id: 0GZ6X9QF00001
	// event: greeting
	// data: hello
	// data: world
}
