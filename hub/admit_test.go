package hub_test

import (
	"slices"
	"testing"

	"github.com/fanfare-hub/fanfare/hub"
	"github.com/fanfare-hub/fanfare/logtest"
)

// TestUnique: the order stays, and a slice whose patterns are all different is returned as it is.
func TestUnique(t *testing.T) {
	given := logtest.Patterns("a", "b/*", "a", "c", "b/*", "a")
	kept := slices.Clone(given)
	if got, want := hub.Unique(given), logtest.Patterns("a", "b/*", "c"); !slices.Equal(got, want) || !slices.Equal(given, kept) {
		t.Errorf("%v, want %v; %v was given", got, want, given)
	}
	once := logtest.Patterns("a", "b")
	if got := hub.Unique(once); &got[0] != &once[0] || len(got) != 2 {
		t.Errorf("%v", got)
	}
}
