// Package fleet is how the channels of stores and their PCs are named. Nothing else knows it.
package fleet

import (
	"strings"

	"github.com/fanfare-hub/fanfare"
)

// Device is a store's PC.
type Device struct{ Store, PC string }

// Broadcast is the channel of all stores.
const Broadcast = "stores"

// StoreChannel is the channel of all PCs of a store.
func StoreChannel(store string) string { return Broadcast + "/" + store }

// Channel is the PC's own channel.
func (d Device) Channel() string { return StoreChannel(d.Store) + "/pcs/" + d.PC }

// Channels are the channels of a PC's stream: its own, its store's, and that of all stores.
func (d Device) Channels() [3]string { return [3]string{d.Channel(), StoreChannel(d.Store), Broadcast} }

// Of returns the PC that a channel belongs to. The channel must belong to a PC.
func Of(channel string) (d Device) {
	_, rest, _ := strings.Cut(channel, "/")
	d.Store, rest, _ = strings.Cut(rest, "/")
	_, d.PC, _ = strings.Cut(rest, "/")
	return d
}

// MaxIDBytes is the longest storeId or pcId.
const MaxIDBytes = 64

// CheckID checks a storeId or pcId, which parameter names: 1 to MaxIDBytes of A–Z a–z 0–9 . _ ~ -.
// The error has CodeInvalid.
func CheckID(parameter, id string) error {
	ok := id != "" && len(id) <= MaxIDBytes
	for i := 0; ok && i < len(id); i++ {
		c := id[i]
		ok = c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '~' ||
			c == '-'
	}
	if !ok {
		return fanfare.Invalid("%s must have 1 to %d of the characters A-Z a-z 0-9 . _ ~ -", parameter, MaxIDBytes)
	}
	return nil
}

// ParseDevice reads stores/S/pcs/P, in which S and P may be `*`, as the pattern of the PCs' own
// channels; false when the text is none.
func ParseDevice(text string) (fanfare.Pattern, bool) {
	d := Of(text)
	for _, id := range []string{d.Store, d.PC} {
		if id != "*" && CheckID("", id) != nil {
			return fanfare.Pattern{}, false
		}
	}
	p, err := fanfare.ParsePattern(text)
	return p, err == nil && d.Channel() == text
}
