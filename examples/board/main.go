// Command board plays the PCs of a few stores: each keeps its stream open, says now and then that
// it is well, and publishes its state, the figures of the machine that it really runs on, on the
// channel board/STORE/PC. With -late one PC of each store goes silent after a while. Where the hub
// asks who it is, its token needs
//
//	--device 'stores/*/pcs/*' --publish 'board/*/*'
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare/examples/internal/hubclient"
)

func main() {
	hub := hubclient.Flags()
	stores := flag.Int("stores", 3, "stores")
	pcs := flag.Int("pcs", 4, "PCs of each store")
	late := flag.Duration("late", 20*time.Second, "after so long the last PC of each store goes silent; 0: never")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var running sync.WaitGroup
	for s := range *stores {
		for p := range *pcs {
			pc := pc{hub, fmt.Sprint(s + 1), fmt.Sprint(p + 1)}
			ctx, cancel := ctx, context.CancelFunc(func() {})
			if p == *pcs-1 && *late > 0 {
				ctx, cancel = context.WithTimeout(ctx, *late)
			}
			running.Go(func() {
				defer cancel()
				pc.run(ctx)
			})
		}
	}
	running.Wait()
}

type pc struct {
	hub       *hubclient.Hub
	store, id string
}

func (p pc) run(ctx context.Context) {
	var parts sync.WaitGroup
	parts.Go(func() { p.listen(ctx) })
	parts.Go(func() { p.report(ctx) })
	parts.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// failed says what went wrong. The PC tries again in a moment.
func (p pc) failed(ctx context.Context, what string, err error) bool {
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "store %s, PC %s cannot %s: %v\n", p.store, p.id, what, err)
	}
	return err != nil
}

// listen keeps the stream open and prints the commands that come.
func (p pc) listen(ctx context.Context) {
	for ; ctx.Err() == nil; pause(ctx, time.Second) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet,
			p.hub.URL+"/v1/stores/event-sources?storeId="+p.store+"&pcId="+p.id, nil)
		if err != nil {
			return
		}
		resp, err := p.hub.Do(req)
		if err == nil {
			err = hubclient.Refusal(resp)
		}
		if p.failed(ctx, "listen", err) {
			continue
		}
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if data, ok := strings.CutPrefix(lines.Text(), "data: {\"eventType\""); ok {
				fmt.Printf("store %s, PC %s: {\"eventType\"%s\n", p.store, p.id, data)
			}
		}
		_ = resp.Body.Close()
	}
}

// report marks the PC as alive and publishes figures.
func (p pc) report(ctx context.Context) {
	var meter hubclient.Meter
	for ; ctx.Err() == nil; pause(ctx, 2*time.Second) {
		if req, err := http.NewRequestWithContext(ctx, http.MethodGet,
			p.hub.URL+"/v1/health?storeId="+p.store+"&pcId="+p.id, nil); err == nil {
			if resp, err := p.hub.Do(req); err == nil {
				_ = resp.Body.Close()
			}
		}
		p.failed(ctx, "publish", p.hub.Publish(ctx,
			hubclient.Event{Channel: "board/" + p.store + "/" + p.id, Event: "figures", Data: meter.Read()}))
	}
}
