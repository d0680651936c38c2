package logtest_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An engine's test runs the suite with a function that opens the same storage again and again:
//
//	func TestConformance(t *testing.T) {
//		logtest.Run(t, logtest.Engine{New: func(t *testing.T, keep logtest.Keep) func() logtest.Log { … }})
//	}
func ExampleAppend() {
	log, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	if err != nil {
		panic(err)
	}
	defer log.Close()
	receipt, err := logtest.Append(log, &fanfare.Batch{Events: []fanfare.Event{
		{Channel: logtest.Channel("a"), Data: "1"}, {Channel: logtest.Channel("b"), Data: "2"},
	}})
	fmt.Println(len(receipt.Positions), receipt.Positions[1] == receipt.Positions[0]+1, err)
	// Output: 2 true <nil>
}
