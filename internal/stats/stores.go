package stats

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// storesOf joins the PCs that are known with those whose streams are open, whose first channel is stores/STORE/pcs/PC.
func storesOf(known map[string]map[string]time.Time, open [][]string, now time.Time) []Store {
	stores := map[string]map[string]PC{}
	put := func(store string, pc PC) {
		if stores[store] == nil {
			stores[store] = map[string]PC{}
		}
		stores[store][pc.PC] = pc
	}
	for store, pcs := range known {
		for pc, seen := range pcs {
			put(store, PC{PC: pc, LastSeen: seen})
		}
	}
	for _, channels := range open {
		if len(channels) == 0 {
			continue
		}
		if parts := strings.Split(channels[0], "/"); len(parts) == 4 && parts[0] == "stores" && parts[2] == "pcs" {
			put(parts[1], PC{PC: parts[3], Open: true, LastSeen: now})
		}
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
