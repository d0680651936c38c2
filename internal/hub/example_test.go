package hub_test

import (
	"context"
	"fmt"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

func ExampleHub() {
	log, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	if err != nil {
		panic(err)
	}
	defer log.Close()
	h := hub.New(hub.Options{Log: log, Encode: func(e fanfare.Event) hub.Frame {
		return hub.Frame{Body: []byte(e.Data), Chunk: []byte(e.Data)}
	}})
	defer h.Close()

	woken := make(waker, 1)
	s, err := h.Subscribe(logtest.Patterns("greetings"), hub.Start{}, woken)
	if err != nil {
		panic(err)
	}
	defer s.Close()
	if _, err := logtest.Append(log,
		&fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("greetings"), Data: "hello"}}}); err != nil {
		panic(err)
	}
	<-woken
	var turn hub.Turn
	if !s.Next(&turn) { // the events are not in memory
		if err := s.Read(context.Background(), &turn); err != nil {
			panic(err)
		}
	}
	for _, frame := range turn.Frames {
		fmt.Println(string(frame.Body))
	}
	s.Advance(turn.Through, turn.More)
	// Output: hello
}
