package pebblelog_test

import (
	"context"
	"fmt"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

func ExampleOpen() {
	log, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory}) // or Dir: "data"
	if err != nil {
		panic(err)
	}
	defer log.Close()

	channel, err := fanfare.ParseChannel("greetings")
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	batch := &fanfare.Batch{Events: []fanfare.Event{{Channel: channel, Data: "hello"}}}
	if _, err := fanfare.Append(ctx, log, batch); err != nil {
		panic(err)
	}
	page, err := log.Read(ctx, fanfare.Query{Patterns: []fanfare.Pattern{fanfare.ExactPattern(channel)}})
	if err != nil {
		panic(err)
	}
	for _, e := range page.Events {
		fmt.Println(e.Channel, e.Data)
	}
	// Output: greetings hello
}
