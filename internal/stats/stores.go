package stats

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// storesOf joins the known PCs with those whose streams are open.
func storesOf(known, open []KnownPC, now time.Time) []Store {
	stores := map[string]map[string]PC{}
	for _, one := range append(known[:len(known):len(known)], open...) {
		if one.PC.Open {
			one.PC.LastSeen = now
		}
		if stores[one.Store] == nil {
			stores[one.Store] = map[string]PC{}
		}
		stores[one.Store][one.PC.PC] = one.PC
	}
	list := make([]Store, 0, len(stores))
	total := 0
	for store, pcs := range stores {
		s := Store{Store: store}
		for _, pc := range pcs {
			s.PCs = append(s.PCs, pc)
		}
		slices.SortFunc(s.PCs, func(a, b PC) int { return natural(a.PC, b.PC) })
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Store) int { return natural(a.Store, b.Store) })
	for i := range list {
		if total += len(list[i].PCs); total > storesMost {
			return list[:i+1]
		}
	}
	return list
}

// natural orders 2 before 10.
func natural(a, b string) int {
	if len(a) != len(b) && digits(a) && digits(b) {
		return cmp.Compare(len(a), len(b))
	}
	return cmp.Compare(a, b)
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }
