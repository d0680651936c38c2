// Command fanfare runs a durable push hub, and speaks to one.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if text := message(err); text != "" {
		fmt.Fprintln(os.Stderr, "fanfare:", text)
	}
	os.Exit(exitCode(err))
}
