// Package http1 serves HTTP/1.1 connections that have been taken over from net/http. It knows one
// shape of request, the one that publishers send thousands of times a second: a POST whose body has
// a length, in ordinary header lines. It reads each with one system call, has the server's own
// handler answer it, and writes the answer with another.
//
// It does not judge any other request: the connection goes back, with all bytes that came, to the
// http.Server that it was taken from, which answers or refuses the request as it always did.
package http1
