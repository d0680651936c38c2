package pebblelog

import "os"

// How much the large tests do. With FANFARE_LONG=1, which `make nightly` sets, they do all of it;
// otherwise they do what a change can wait for, with the race detector too, which makes them ten
// times as slow.
var (
	manyChannels = 10_000

	readSeeds, readSteps = uint64(24), 100 // TestAllWaysOfReadingAgree
	groupSeeds           = uint64(8)       // TestSameGroups
	ageSeeds             = uint64(10)      // TestAgesAreExact
	tooFast              = 120_000         // events of TestLimitHoldsAgainstFastPublishers

	// TestEveryCrashOpens: how many operations lie between two crashes, after the first few, and
	// besides those that change which files count.
	crashEvery = 61

	// TestCrashUponCrash: how many chains of crashes are tried of each kind, and how long each is.
	crashChains, crashRounds = uint64(1), 30

	// TestDiskTakesLittle: events, and the bytes beside what is retained. It is less than 100 MB,
	// so that few events are enough: they take twice as much before the log comes to rest.
	manyTrimmed, moreTrimmed = 200_000, int64(30e6)

	damageEvery = 13 // TestDamage tries one in damageEvery damages
	cutEvery    = 40 // bytes between two cuts of a MANIFEST
)

func init() {
	if os.Getenv("FANFARE_LONG") == "" {
		return
	}
	manyChannels = 100_000
	readSeeds, readSteps = 60, 150
	groupSeeds, ageSeeds = 20, 30
	tooFast = 200_000
	manyTrimmed, moreTrimmed = 400_000, 60e6
	crashEvery = 7
	crashChains, crashRounds = 4, 100
	damageEvery, cutEvery = 1, 3
}
