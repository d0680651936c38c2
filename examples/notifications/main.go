// Command notifications publishes notifications for one user: the text given, or, without one, what
// this machine has to say every few seconds: its own CPU, memory and load.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare/examples/internal/hubclient"
)

func main() {
	hub := hubclient.Flags()
	user := flag.String("user", "ada", "who is notified")
	every := flag.Duration("every", 5*time.Second, "pause between two notifications")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, hub, *user, strings.Join(flag.Args(), " "), *every); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, hub *hubclient.Hub, user, text string, every time.Duration) error {
	notify := func(title, text string) error {
		return hub.Publish(ctx, hubclient.Event{
			Channel: "users/" + user + "/notifications", Event: "notification",
			Data: map[string]string{"title": title, "text": text, "time": time.Now().UTC().Format(time.RFC3339)},
		})
	}
	if text != "" {
		return notify("Message", text)
	}
	var meter hubclient.Meter
	meter.Read()
	for tick := time.NewTicker(every); ; {
		select {
		case <-tick.C:
			f := meter.Read()
			if err := notify("This machine",
				fmt.Sprintf("CPU %.0f %%, memory %.0f %%, load %.2f", f.CPU, f.Memory, f.Load)); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}
