// Package storeapi is the API of the store fleets: a PC's stream of commands, commands to one PC, a store, or all stores, and
// health marks. It translates the older system's protocol, whose clients run in the shops unchanged.
//
// Those clients never send a position. So the hub keeps one for each PC (kept.go): where its last stream stood.
package storeapi
