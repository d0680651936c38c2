package pebblelog

import (
	"context"

	"github.com/fanfare-hub/fanfare"
)

// Last implements fanfare.Log.
func (l *Log) Last(ctx context.Context, r fanfare.Recent) (past fanfare.Past, err error) {
	durable := fanfare.Position(l.durable.Load())
	if r.Through == 0 || r.Through > durable {
		r.Through = durable
	}
	err = l.read(ctx, func(s *session) error {
		channels, few, err := s.readers.byIndex(ctx, r.Patterns, 0, r.Through)
		if err != nil {
			return err
		}
		if few {
			past, err = s.readers.lastMerged(ctx, channels, r)
		} else {
			past, err = s.readers.lastScanned(ctx, r)
		}
		return err
	})
	return past, err
}

// lastMerged goes back through the indexes of the channels.
func (rd *readers) lastMerged(
	ctx context.Context, channels []fanfare.Channel, r fanfare.Recent,
) (past fanfare.Past, err error) {
	m, err := rd.newMerge(channels, 0, r.Through, true)
	if err != nil {
		return past, err
	}
	defer m.close()
	lives := lifetimes{catalog: rd.catalog}
	for looked := 0; past.Count < r.Count && m.Len() > 0; err = m.next() {
		if err != nil {
			return past, err
		}
		if looked == rd.pieces.events {
			past.From = m.cursors[0].e.pos
			break
		}
		if looked++; looked%256 == 0 && ctx.Err() != nil {
			return past, ctx.Err()
		}
		if !lives.expired(m.cursors[0].e.expires) {
			past.First = m.cursors[0].e.pos
			past.Count++
		}
	}
	return past, err
}

// lastScanned goes back by position.
func (rd *readers) lastScanned(ctx context.Context, r fanfare.Recent) (past fanfare.Past, err error) {
	bound, err := rd.markBound(r.Patterns)
	if err != nil {
		return past, err
	}
	sc := newScanner(rd, r.Patterns, bound)
	defer sc.close()
	lives := lifetimes{catalog: rd.catalog}
	past.From, err = sc.backward(ctx, rd.belowFirst(), r.Through,
		func(pos fanfare.Position, _ *met, value []byte) (bool, error) {
			if expired, err := lives.expiredValue(value); expired || err != nil {
				return true, err
			}
			past.First = pos
			past.Count++
			return past.Count < r.Count, nil
		})
	if past.Count == r.Count || past.From <= rd.belowFirst() {
		past.From = 0
	}
	return past, err
}
