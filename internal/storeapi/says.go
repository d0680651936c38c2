package storeapi

import (
	"log/slog"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/fleet"
	"github.com/fanfare-hub/fanfare/internal/problem"
)

// Readers are counters for PCs that have several readers, or a reader that was away for long.
type Readers struct {
	// times a stream turned out to be read on though a newer one of the same reader had opened
	Shared    uint64
	Several   uint64            // the same, the newer one being another reader's
	Dropped   uint64            // cursors that were given up because a PC had too many
	Forgotten uint64            // streams that began with the gap `forgotten`
	Looks     map[string]uint64 // streams that moved nothing, by why
}

// Why a stream only looks.
const (
	LookAsked   = "asked"    // look=true
	LookNoRight = "no_right" // its caller is not the PC
)

// warnAgain is how often a PC's readers are warned of.
const warnAgain = time.Hour

// saysMost is how many warnings of a kind are logged in a minute.
const saysMost = 20

// subjectsMost bounds the subjects that are remembered because the log has warned of them.
const subjectsMost = 10_000

// says writes warnings down, not more than a log can take. Its methods may be called from any
// goroutine.
type says struct {
	logger   *slog.Logger
	problems *problem.Writer // knows the names of settings

	mu       sync.Mutex // guards the fields below
	subjects map[string]struct{}
	kinds    map[string]*said
}

// said counts the warnings of one kind.
type said struct {
	minute       time.Time
	said, unsaid int
}

func (s *says) warn(kind, message string, more ...any) {
	s.mu.Lock()
	if s.kinds == nil {
		s.kinds = map[string]*said{}
	}
	k := s.kinds[kind]
	if k == nil {
		k = &said{}
		s.kinds[kind] = k
	}
	if now := time.Now(); now.Sub(k.minute) > time.Minute {
		k.minute, k.said = now, 0
	}
	k.said++
	if k.said > saysMost {
		k.unsaid++
		s.mu.Unlock()
		return
	}
	if k.unsaid > 0 {
		more = append(more, slog.Int("unsaid", k.unsaid))
		k.unsaid = 0
	}
	s.mu.Unlock()
	s.logger.Warn(message, more...)
}

func named(d fleet.Device, more ...any) []any {
	return append([]any{slog.String("storeId", d.Store), slog.String("pcId", d.PC)}, more...)
}

// severalReaders is a warning of a PC that is read twice at once.
type severalReaders struct {
	device    fleet.Device
	same      bool // by one reader
	addresses []string
}

// warningsMost bounds the warnings that wait for the next look.
const warningsMost = 100

func (p *pc) several(same bool) severalReaders {
	n := severalReaders{device: p.device(), same: same}
	for r := p.readers; r != nil; r = r.next {
		if r.open != nil {
			n.addresses = append(n.addresses, r.id.text())
		}
	}
	return n
}

func (s *says) several(n severalReaders) {
	message := "a PC's stream is read from several addresses, or with several tokens: add look=true to a request " +
		"that only looks; give each machine a pcId of its own"
	if n.same {
		message = "two machines, or two programs, share one storeId and pcId, one token and one address: each may " +
			"miss commands or get them twice; give each a pcId of its own"
	}
	s.warn("several", message, named(n.device, slog.Any("addresses", n.addresses))...)
}

func (s *says) dropped(d fleet.Device, id readerID) {
	s.warn("dropped", "a PC has too many readers: the position of the reader that was away longest is dropped",
		named(d, slog.String("address", id.text()), slog.Int("most", readersMost))...)
}

func (s *says) forgotten(d fleet.Device) {
	s.warn("forgotten", "a PC was away for longer than its position is kept: it is told of a gap",
		named(d, s.problems.Settings(fanfare.SettingStoreResumeFor))...)
}

// looks warns of a subject once.
func (s *says) looks(by caller.Caller, d fleet.Device) {
	s.mu.Lock()
	if s.subjects == nil {
		s.subjects = map[string]struct{}{}
	}
	subject := subjectOf(by)
	_, known := s.subjects[subject]
	full := len(s.subjects) >= subjectsMost
	if !known && !full {
		s.subjects[subject] = struct{}{}
	}
	s.mu.Unlock()
	if !known && !full {
		s.warn("looks", "a caller that may listen to a PC's channels and is not the PC only looks: no position is "+
			"kept for it and no health mark is taken; a PC's token needs `device`",
			slog.String("subject", by.Who.Subject), slog.String("remote", by.Remote()), slog.String("storeId",
				d.Store), slog.String("pcId", d.PC))
	}
}
