package server_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// memoryHub is a hub that forgets everything with the process.
func memoryHub() (hub *server.Server, end func()) {
	log := must(pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory}))
	hub = must(server.New(server.Options{Log: log}))
	return hub, func() {
		_ = hub.Close()
		_ = log.Close()
	}
}

// Two events, stored together or not at all.
func ExampleServer_Publish() {
	hub, end := memoryHub()
	defer end()

	receipt, err := hub.Publish(context.Background(),
		fanfare.Message{Channel: "prices/fr", Type: "price", Data: "101.5"},
		fanfare.Message{Channel: "prices/de", Type: "price", Data: "99.2"},
	)
	fmt.Println(len(receipt.Positions), err)
	// Output: 2 <nil>
}

// A loop over what is stored and what comes. Its body ends it.
func ExampleServer_Subscribe() {
	hub, end := memoryHub()
	defer end()
	must(hub.Publish(context.Background(), fanfare.Message{Channel: "prices/fr", Data: "101.5"}))

	for d, err := range hub.Subscribe(context.Background(),
		fanfare.Subscription{Patterns: []string{"prices/*"}, Last: 10}) {
		fmt.Println(d.Event.Channel, d.Event.Data, err)
		break
	}
	// Output: prices/fr 101.5 <nil>
}

// A consumer that carries on where it was, told of what it has missed.
func ExampleServer_Subscribe_resume() {
	hub, end := memoryHub()
	defer end()
	seen := must(hub.Publish(context.Background(), fanfare.Message{Channel: "orders", Data: "1"})).Positions[0]
	must(hub.Publish(context.Background(), fanfare.Message{Channel: "orders", Data: "2"}))

	for d, err := range hub.Subscribe(context.Background(),
		fanfare.Subscription{Patterns: []string{"orders"}, After: seen}) {
		fmt.Println(d.Event.Data, d.Gap != nil, err) // then store d.Position()
		break
	}
	// Output: 2 false <nil>
}

// The events that are stored, and none that come later.
func ExampleServer_History() {
	hub, end := memoryHub()
	defer end()
	must(hub.Publish(context.Background(), fanfare.Message{Channel: "orders", Data: "1"},
		fanfare.Message{Channel: "orders", Data: "2"}))

	for d, err := range hub.History(context.Background(), fanfare.Subscription{Patterns: []string{"orders"}}) {
		fmt.Println(d.Event.Data, err)
	}
	// Output:
	// 1 <nil>
	// 2 <nil>
}

// A hub in another program, beside what that serves itself.
func ExampleNew() {
	log := must(pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory}))
	defer log.Close()
	hub := must(server.New(server.Options{Log: log}))
	defer hub.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "the program's own") })
	mux.Handle("/", hub)
	web := httptest.NewServer(mux)
	defer web.Close()

	resp := must(http.Post(web.URL+"/v1/channels/greetings", "text/plain", strings.NewReader("hello")))
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	// Output: 201
}

// A hub behind the program's own login: who has no session gets nothing, and requests may name any
// host.
func ExampleAuthFunc() {
	sessions := map[string]string{"s3cr3t": "ada"}
	login := func(r *http.Request) (*fanfare.Principal, error) {
		cookie, err := r.Cookie("session")
		if err != nil || sessions[cookie.Value] == "" {
			return nil, errors.New("no session")
		}
		return &fanfare.Principal{Subject: sessions[cookie.Value], Unlimited: true}, nil
	}
	log := must(pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory}))
	defer log.Close()
	hub := must(server.New(server.Options{Log: log, Access: server.AccessOptions{Auth: server.AuthFunc(login)}}))
	defer hub.Close()

	for _, session := range []string{"", "s3cr3t"} {
		r := httptest.NewRequest("POST", "http://push.example.com/v1/channels/greetings", strings.NewReader("hello"))
		r.AddCookie(&http.Cookie{Name: "session", Value: session})
		w := httptest.NewRecorder()
		hub.ServeHTTP(w, r)
		fmt.Println(w.Code)
	}
	// Output:
	// 401
	// 201
}
