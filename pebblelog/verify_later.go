package pebblelog

import (
	"errors"

	"github.com/fanfare-hub/fanfare"
)

// checkExpiries checks that the events in the list of expiries have these expiries.
func (v *verifier) checkExpiries() error {
	return v.each(keyExpiry, func(key, _ []byte) error {
		if len(key) != 25 {
			v.fault("an expiry is damaged: %x", key)
			return nil
		}
		num, pos := lastNumber(key[:17]), lastNumber(key)
		value, ok, err := v.get(keyOf(keyIndex, num, pos))
		if err != nil || !ok {
			return errors.Join(err, v.stopped()) // the event was trimmed, as the sweep will find
		}
		e, err := readEntry(keyOf(keyIndex, num, pos), value)
		if err == nil && (e.expires == 0 || uint64(e.expires) > lastNumber(key[:9])) {
			v.fault("event %v of channel %s is listed by an expiry that it does not have", fanfare.Position(pos),
				v.names[num])
		}
		return v.stopped() // checkIndex has reported a damaged entry
	})
}

func (s *store) waiting() (w waiting, err error) {
	value, ok, err := s.get([]byte{keyHighest})
	if err != nil || !ok {
		return w, err
	}
	return readWaiting(value)
}

// checkScheduled reads each scheduled event, and checks that it is listed by its time, and counted.
func (v *verifier) checkScheduled() error {
	stored, err := v.waiting()
	if err != nil {
		v.fault("the count of scheduled events cannot be read: %v", err)
	}
	var found waiting
	err = v.each(keyWaiting, func(key, value []byte) error {
		v.Scheduled++
		found.count++
		id := lastNumber(key)
		s, err := readScheduled(value)
		if err != nil || len(key) != 9 {
			v.fault("scheduled event %v: %v", fanfare.ScheduledID(id), err)
			return nil
		}
		found.bytes += s.bytes()
		if id > stored.highest {
			v.fault("scheduled event %v has an id that was never given", fanfare.ScheduledID(id))
		}
		if _, ok, err := v.get(keyOf(keyDue, uint64(s.at), id)); err != nil {
			return err
		} else if !ok {
			v.fault("scheduled event %v is not listed by its time, and would never be published",
				fanfare.ScheduledID(id))
		}
		if _, ok, err := v.get(waitsIn(s.event.Channel, id)); err != nil {
			return err
		} else if !ok {
			v.fault("scheduled event %v is not listed by its channel", fanfare.ScheduledID(id))
		}
		return v.stopped()
	})
	if err != nil {
		return err
	}
	listed, byChannel := uint64(0), uint64(0)
	if err := v.each(keyDue, func([]byte, []byte) error { listed++; return v.stopped() }); err != nil {
		return err
	}
	if err := v.each(keyWaitsIn, func([]byte, []byte) error { byChannel++; return v.stopped() }); err != nil {
		return err
	}
	if byChannel != found.count {
		v.fault("%d events are scheduled, %d are listed by their channels", found.count, byChannel)
	}
	if listed != found.count || stored.count != found.count || stored.bytes != found.bytes {
		v.fault("%d events of %d bytes are scheduled, %d are listed by their times, and the count says %d of %d bytes",
			found.count, found.bytes, listed, stored.count, stored.bytes)
	}
	return nil
}
