package pebblelog

import (
	"errors"
	"runtime"

	"github.com/fanfare-hub/fanfare"
)

// surveyor finds the trim marks at the time when rules came into force (bound.go).
type surveyor struct{ *catalog }

// surveyLoop surveys the channels each time that rules have come into force.
func (s *session) surveyLoop() {
	for {
		if set := s.catalog.rules.Load(); !set.surveyed.Load() {
			if err := s.guard(func() error { return surveyor{s.catalog}.survey(set) }); err != nil {
				return // the session has failed, or the log closes, or the store is damaged, which readers find too
			}
		}
		select {
		case <-s.catalog.ruled:
			// A barrier is a later group: when it is in the store, so is all that was committed
			// before the rules changed.
			if s.log.command(barrier{}) != nil {
				return
			}
		case <-s.dead:
			return
		case <-s.log.stop:
			return
		}
	}
}

// survey raises the bounds of rules to the stored trim marks, and to the marks that limits of count
// or of bytes have moved.
func (s surveyor) survey(set *ruleSet) error {
	if err := s.surveyMarks(set); err != nil {
		return err
	}
	if set.limited {
		if err := s.surveyLimits(set); err != nil {
			return err
		}
	}
	set.surveyed.Store(true)
	return nil
}

// surveyMarks raises the bounds to the stored trim marks.
func (s surveyor) surveyMarks(set *ruleSet) error {
	marks, err := s.db.NewIter(ofKind(keyMark))
	if err != nil {
		return err
	}
	defer marks.Close()
	for n, ok := 0, marks.First(); ok; n, ok = n+1, marks.Next() {
		if err := s.pause(n); err != nil {
			return err
		}
		mark, err := readMark(marks.Value())
		if err != nil {
			return err
		}
		if mark.pos <= set.lowestHigh() {
			continue
		}
		name, err := s.nameOf(lastNumber(marks.Key()))
		if isNotFound(err) {
			continue // forgotten meanwhile
		}
		if err != nil {
			return err
		}
		raise(&set.of(name).high, mark.pos)
	}
	return marks.Error()
}

// surveyLimits raises the bounds of rules that a channel has outgrown to the channel's newest
// event.
func (s surveyor) surveyLimits(set *ruleSet) error {
	names, err := s.db.NewIter(ofKind(keyName))
	if err != nil {
		return err
	}
	defer names.Close()
	index, err := s.db.NewIter(ofKind(keyIndex))
	if err != nil {
		return err
	}
	defer index.Close()
	for n, ok := 0, names.First(); ok; n, ok = n+1, names.Next() {
		if err := s.pause(n); err != nil {
			return err
		}
		name, err := fanfare.ParseChannel(string(names.Value()))
		if err != nil {
			return errCorrupt
		}
		num, rule := lastNumber(names.Key()), set.of(name)
		if rule.Count == 0 && rule.Bytes == 0 {
			continue
		}
		index.SetBounds(keyOf(keyIndex, num), keyOf(keyIndex, num+1))
		if !index.Last() {
			continue
		}
		last, err := readEntry(index.Key(), index.Value())
		if err != nil {
			return err
		}
		if rule.outgrownBy(extent{last.seq, last.bytes}) {
			raise(&rule.high, last.pos)
		}
	}
	return errors.Join(names.Error(), index.Error())
}

// pause lets other goroutines run after each 64 steps, and returns an error when the survey must
// stop.
func (s surveyor) pause(n int) error {
	if n%64 > 0 {
		return nil
	}
	runtime.Gosched()
	return s.stopped()
}
