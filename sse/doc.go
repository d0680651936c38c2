// Package sse is the wire of Server-Sent Events, both directions: AppendEvent and its like write
// it, Parser and Decoder read it. The rules are those of the WHATWG HTML standard, section 9.2
// "Server-sent events". Standard library only.
package sse
