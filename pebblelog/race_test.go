//go:build race

package pebblelog

// The race detector makes them ten times as slow.
func init() {
	manyChannels = 10_000
	crashEvery = 61
	crashChains, crashRounds = 1, 30
	damageEvery, cutEvery = 7, 40
}
