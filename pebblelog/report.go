package pebblelog

import (
	"context"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// Retention implements fanfare.Operable.
func (l *Log) Retention(ctx context.Context, rules []fanfare.Rule) (reports []fanfare.RuleReport, err error) {
	err = l.read(ctx, func(s *session) error {
		reports, err = s.catalog.report(ctx, rules)
		return err
	})
	return reports, err
}

// report returns a report for each rule. With rules, the reports are by these rules, and say how
// much they would remove; nil stands for the rules in force.
func (c *catalog) report(ctx context.Context, rules []fanfare.Rule) ([]fanfare.RuleReport, error) {
	set := c.rules.Load()
	if rules != nil {
		set = newRuleSet(rules, nil)
	}
	reports := make([]fanfare.RuleReport, len(set.rules)+1)
	at := map[*liveRule]*fanfare.RuleReport{set.forget: &reports[len(set.rules)]}
	for i, r := range set.rules {
		reports[i].Rule = r.Rule
		at[r] = &reports[i]
	}
	names, err := c.db.NewIter(ofKind(keyName))
	if err != nil {
		return nil, err
	}
	defer names.Close()
	for ok := names.First(); ok; ok = names.Next() {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		name, err := fanfare.ParseChannel(string(names.Value()))
		if err != nil {
			return nil, errCorrupt
		}
		st, err := c.channel(name)
		if err != nil {
			return nil, err
		}
		if st == nil {
			continue
		}
		rule := set.of(name)
		if err := c.reportChannel(st, rule.Rule, at[rule]); err != nil {
			return nil, err
		}
	}
	if last := reports[len(reports)-1]; last.Channels == 0 {
		reports = reports[:len(reports)-1]
	}
	return reports, names.Error()
}

// reportChannel adds a channel to a rule's report. It need not count, because the index entries
// have sums of the channel's events and bytes.
func (c *catalog) reportChannel(st *channelState, r fanfare.Rule, report *fanfare.RuleReport) error {
	if _, err := c.trimMark(st); err != nil {
		return err
	}
	st.mu.Lock()
	mark, oldest, some := st.mark, st.oldest, st.known
	st.mu.Unlock()
	if !some {
		return nil
	}
	last := extent{st.lastSeq.Load(), st.lastBytes.Load()}
	would, _, _, err := c.findMark(st.num.Load(), r, mark, last, c.bounds())
	if err != nil {
		return err
	}
	report.Channels++
	report.Events += last.seq - mark.seq
	report.Bytes += sizeBetween(mark.bytes, last.bytes)
	report.RemovesEvents += would.seq - mark.seq
	report.RemovesBytes += sizeBetween(mark.bytes, would.bytes)
	if t := time.UnixMilli(oldest.ms).UTC(); report.Oldest.IsZero() || t.Before(report.Oldest) {
		report.Oldest = t
	}
	return nil
}
