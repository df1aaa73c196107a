package archive

// Stock is what is known, at one moment, of what is fetched ahead of a recovery.
type Stock struct {
	Laid      int  // segments that were fetched and that recovery has not taken yet
	Hasty     int  // that are being fetched in haste
	Leisurely int  // and at leisure
	Room      int  // segments at most, of all three kinds
	Workers   int  // fetches in haste at most
	Awaited   bool // somebody waits for the segment that would be fetched next
}

// Fetch is whether the next segment is fetched now, and how.
type Fetch int

// The ways.
const (
	FetchNone      Fetch = iota // not now
	FetchHastily                // recovery waits for it, or may soon
	FetchLeisurely              // the processors are recovery's first
)

// DecideAhead says whether to begin the next segment. Fetching ahead is of use as far
// as recovery does not wait; whatever goes beyond takes processor time and memory
// bandwidth from the one process that replays. So as many segments as there are
// workers are fetched at once, or lie ready; the rest of the room is filled one by
// one, at leisure. Where a fetch takes longer than the replay of a segment, what lies
// ready dwindles until as many are fetched at the same time as recovery takes
// meanwhile: nobody has to know how long either takes.
//
// There is one fetch at leisure at a time, beside those in haste: it keeps a
// processor of the runtime while the kernel does not let it run.
func DecideAhead(s Stock) Fetch {
	all := s.Laid + s.Hasty + s.Leisurely
	workers := max(1, s.Workers)
	switch {
	case all >= s.Room || s.Hasty >= workers:
		return FetchNone
	case s.Awaited || all < workers:
		return FetchHastily
	case s.Hasty+s.Leisurely == 0:
		return FetchLeisurely
	}
	return FetchNone
}
