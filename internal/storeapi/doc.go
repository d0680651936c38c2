// Package storeapi is the API of the store fleets: a PC's stream of commands, commands to one PC, a
// store, or all stores, and health marks. It translates the older system's protocol, whose clients
// run in the shops unchanged.
//
// Those clients never send a position. So the hub keeps cursors for them: reader.go says whose, and
// what becomes of them when streams open and end; positions.go finds where a stream starts;
// store.go brings cursors into the log, record.go is how they look there.
package storeapi
