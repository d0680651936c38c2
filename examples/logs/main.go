// Command logs follows a log file and publishes each new line, as tail -F does: by default from the
// file's beginning.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare/examples/internal/hubclient"
)

func main() {
	hub := hubclient.Flags()
	file := flag.String("file", "/var/log/dpkg.log", "the log file to follow")
	channel := flag.String("channel", "logs/machine", "where to publish")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, hub, *file, *channel); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, hub *hubclient.Hub, file, channel string) error {
	events := make(chan hubclient.Event, 100)
	failed := make(chan error, 1)
	go func() {
		defer close(events)
		failed <- follow(ctx, file, func(line string) error {
			select {
			case events <- hubclient.Event{Channel: channel, Event: "line", Data: line}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	if err := hub.Stream(ctx, events); err != nil {
		return err
	}
	return <-failed
}

// follow calls line for each line of the file, and goes on when the file was rotated.
func follow(ctx context.Context, file string, line func(string) error) error {
	for {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		err = followOpen(ctx, f, file, line)
		_ = f.Close()
		if err != nil {
			return err
		}
	}
}

// followOpen returns nil when another file has taken the name.
func followOpen(ctx context.Context, f *os.File, file string, line func(string) error) error {
	in := bufio.NewReader(f)
	part := ""
	for {
		text, err := in.ReadString('\n')
		part += text
		if err == nil {
			if err := line(strings.TrimRight(part, "\r\n")); err != nil {
				return err
			}
			part = ""
			continue
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		ours, err := f.Stat()
		if err != nil {
			return err
		}
		if now, err := os.Stat(file); err == nil && (!os.SameFile(ours, now) || now.Size() < ours.Size()) {
			return nil
		}
	}
}
