package wire

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/sse"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// FuzzFrames: what Encode writes, Decode reads, and so does a client; the chunk holds the same.
func FuzzFrames(f *testing.F) {
	for _, data := range []string{"", "a", "a\nb", "\n", "a\n\n", "\r", "a\r\nb\rc\n", "data: x", " x",
		strings.Repeat("x", 70_000)} {
		f.Add(data, "price")
	}
	f.Add("x", "")
	f.Fuzz(func(t *testing.T, data, kind string) {
		data = strings.ToValidUTF8(data, "?")
		eventType, err := fanfare.ParseEventType(kind)
		if err != nil {
			t.Skip()
		}
		want := fanfare.Event{Position: 77, Channel: logtest.Channel("a/b"), Type: eventType, Data: data,
			Time: time.UnixMilli(1_700_000_000_123).UTC()}
		frame := Encode(want)
		frame.Position, frame.Channel, frame.Time = want.Position, want.Channel, hub.StampOf(want.Time)
		if frame.Folded != strings.Contains(data, "\r") {
			t.Errorf("folded: %v", frame.Folded)
		}
		want.Data = strings.ReplaceAll(strings.ReplaceAll(data, "\r\n", "\n"), "\r", "\n")
		opts := cmp.Options{cmp.AllowUnexported(fanfare.Channel{}, fanfare.EventType{}), cmpopts.EquateEmpty()}
		if diff := cmp.Diff(want, Decode(&frame), opts); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		e, err := sse.NewDecoder(bytes.NewReader(frame.Body)).Next()
		if err != nil || e.Data != want.Data || e.Type != eventType.String() ||
			e.LastEventID != want.Position.String() {
			t.Errorf("a client reads %+v, %v", e, err)
		}
		if chunk := sse.AppendChunk(nil, frame.Body); !bytes.Equal(chunk, frame.Chunk) {
			t.Errorf("chunk %q, want %q", frame.Chunk, chunk)
		}
	})
}
