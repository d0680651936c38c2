package stream

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/sse"
)

// envelope is the JSON object for a client that asks for more than SSE has room for: the channel
// that an event is from, and its type without a listener for each type.
type envelope struct {
	Channel string    `json:"channel"`
	Event   string    `json:"event"`
	Data    string    `json:"data"`
	Time    time.Time `json:"time"`
}

// envelop replaces the frames of one stream's turn; it does not change the shared bytes. It is for
// pages and tools, because it encodes again the events that other streams share.
func envelop(frames []hub.Frame) {
	for i := range frames {
		e, err := sse.NewDecoder(bytes.NewReader(frames[i].Body)).Next()
		if err != nil {
			continue // the body is our own, and whole
		}
		data, err := json.Marshal(
			envelope{frames[i].Channel.String(), e.Type, e.Data, frames[i].Time.Time()},
		)
		if err != nil {
			continue
		}
		frames[i].Body = sse.AppendEvent(nil, frames[i].Position.String(), "", string(data))
		frames[i].Chunk = sse.AppendChunk(nil, frames[i].Body)
	}
}
