package publish

import (
	"unicode/utf8"

	"github.com/fanfare-hub/fanfare"
)

// MaxEvents is how many events a batch from outside may have.
const MaxEvents = 1000

// Messages makes a batch of the messages that the program itself publishes, with every check that
// events from outside undergo. An error names the message, when there are several.
func (p *Publisher) Messages(principal string, messages []fanfare.Message) (*fanfare.Batch, error) {
	if len(messages) == 0 || len(messages) > MaxEvents {
		return nil, fanfare.Invalid("there are %d messages: a batch has 1 to %d", len(messages), MaxEvents)
	}
	b := &fanfare.Batch{Events: make([]fanfare.Event, len(messages))}
	bytes := 0
	for i := range messages {
		key, err := p.message(principal, &messages[i], &b.Events[i])
		if err != nil {
			return nil, nameMessage(err, i, len(messages))
		}
		if key.Text != "" {
			if b.Keys == nil {
				b.Keys = make([]fanfare.Key, len(messages))
			}
			b.Keys[i] = key
		}
		if err = AddCondition(b, i, len(messages), messages[i].If); err == nil {
			err = p.addTimes(b, i, messages)
		}
		if err != nil {
			return nil, nameMessage(err, i, len(messages))
		}
		bytes += len(messages[i].Data)
	}
	if bytes > p.MaxRequestBytes {
		return nil, TooLarge(fanfare.SettingMaxRequestBytes,
			"the messages have %d bytes of data together, the limit is %d", bytes, p.MaxRequestBytes)
	}
	return b, nil
}

func (p *Publisher) message(principal string, m *fanfare.Message, e *fanfare.Event) (key fanfare.Key, err error) {
	if e.Channel, err = ConditionalChannel(m.Channel, m.If); err != nil {
		return key, err
	}
	if e.Type, err = fanfare.ParseEventType(m.Type); err != nil {
		return key, err
	}
	if e.Data = m.Data; !utf8.ValidString(m.Data) {
		return key, fanfare.Invalid("data is not valid UTF-8")
	}
	if err = p.CheckData(e.Channel, m.Data); err != nil || m.Key == "" {
		return key, err
	}
	if err = CheckKey("key", m.Key); err != nil {
		return key, err
	}
	parts := append([]string{e.Channel.String(), e.Type.String(), e.Data}, timesOf(m).Parts()...)
	return Key(principal, e.Channel, m.Key, parts...), nil
}

func timesOf(m *fanfare.Message) Times { return Times{TTL: m.TTL, At: m.DeliverAt, In: m.DeliverIn} }

// addTimes checks the times of a message, and adds them to the batch.
func (p *Publisher) addTimes(b *fanfare.Batch, i int, messages []fanfare.Message) error {
	t := timesOf(&messages[i])
	err := fanfare.CheckTTL(t.TTL)
	switch {
	case err != nil:
		return err
	case !t.At.IsZero() && t.In != 0:
		return fanfare.Invalid("DeliverAt and DeliverIn are both given: want one of them")
	case !t.At.IsZero():
		err = fanfare.CheckDeliverAt(t.At, p.Log.Now())
	case t.In != 0:
		err = CheckIn(t.In)
	}
	if err == nil && len(messages) > 1 {
		err = t.NotInArrays()
	}
	if err != nil {
		return err
	}
	return t.Add(b, i, len(messages))
}

func nameMessage(err error, i, of int) error {
	if e, ok := err.(*fanfare.Error); ok && of > 1 {
		named := *e
		named.Detail = fanfare.Invalid("message %d of %d: %s", i, of, e.Detail).Detail
		return &named
	}
	return err
}
