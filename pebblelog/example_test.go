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
	stored := make(chan error, 1)
	log.Append(&fanfare.Batch{Events: []fanfare.Event{{Channel: channel, Data: "hello"}}}, func(_ fanfare.Receipt, err error) { stored <- err })
	if err := <-stored; err != nil {
		panic(err)
	}
	page, err := log.Read(context.Background(), fanfare.Query{Patterns: []fanfare.Pattern{fanfare.ExactPattern(channel)}})
	if err != nil {
		panic(err)
	}
	for _, e := range page.Events {
		fmt.Println(e.Channel, e.Data)
	}
	// Output: greetings hello
}
