//go:build race

package pebblelog

func init() { manyChannels = 10_000 } // the race detector makes them ten times as slow
