package server_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
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

// A hub behind the program's own login: who has no session gets nothing, and requests may name any host.
func ExampleOptions_authorize() {
	sessions := map[string]string{"s3cr3t": "ada"}
	login := func(r *http.Request) (principal string, err error) {
		cookie, err := r.Cookie("session")
		if err != nil || sessions[cookie.Value] == "" {
			return "", errors.New("no session")
		}
		return sessions[cookie.Value], nil
	}
	log := must(pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory}))
	defer log.Close()
	hub := must(server.New(server.Options{Log: log, Authorize: login}))
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
