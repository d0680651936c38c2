// Command quotes publishes GENERATED quotes: 50 symbols that walk at random, hundreds of changes a
// second. No real market is behind them.
package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"

	"github.com/fanfare-hub/fanfare/examples/internal/hubclient"
)

func main() {
	hub := hubclient.Flags()
	rate := flag.Int("rate", 400, "changes a second, of all symbols together")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, hub, *rate); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const symbols = 50

type quote struct {
	Price  float64 `json:"price"`
	Change float64 `json:"change"` // percent since the start
}

func run(ctx context.Context, hub *hubclient.Hub, rate int) error {
	events := make(chan hubclient.Event)
	go generate(ctx, rate, events)
	return hub.Stream(ctx, events)
}

func generate(ctx context.Context, rate int, events chan<- hubclient.Event) {
	defer close(events)
	var start, price [symbols]float64
	for i := range price {
		start[i] = 20 + 180*rand.Float64()
		price[i] = start[i]
	}
	const step = 10 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	due := 0.0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for due += float64(rate) * step.Seconds(); due >= 1; due-- {
			i := rand.IntN(symbols)
			price[i] *= 1 + 0.0015*rand.NormFloat64()
			q := quote{math.Round(price[i]*100) / 100, math.Round((price[i]/start[i]-1)*10000) / 100}
			select {
			case events <- hubclient.Event{Channel: fmt.Sprintf("quotes/GEN%02d", i+1), Event: "quote", Data: q}:
			case <-ctx.Done():
				return
			}
		}
	}
}
