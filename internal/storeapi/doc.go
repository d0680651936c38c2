// Package storeapi is the API of the store fleets: a PC's stream of commands, commands to one PC, a
// store, or all stores, and health marks. It translates the older system's protocol, whose clients
// run in the shops unchanged.
//
// Those clients never send a position. So the hub keeps cursors for them. reader.go says to which
// reader a cursor belongs, and how streams that open and end change it; positions.go finds where a
// stream starts; store.go brings cursors into the log, and record.go has their form there.
package storeapi
