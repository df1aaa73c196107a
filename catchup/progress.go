package catchup

import (
	"sync"
	"time"
)

// Progress is what a run reports about itself.
type Progress struct {
	Phase string        // removing old data, fetching files, fetching WAL, finishing
	Done  int64         // bytes of the phase, as they will lie in the directory
	Total int64         // 0 if it is not known
	Rate  int64         // bytes a second, over the last seconds
	Since time.Duration // the run began
}

// The phases that are reported.
const (
	PhaseAudit     = "auditing old data"
	PhaseRemoving  = "removing old data"
	PhaseFiles     = "fetching files"
	PhaseWAL       = "fetching WAL"
	PhaseFinishing = "finishing"
)

// meter counts and reports. Safe for concurrent use; report is called by one
// goroutine at a time, some times a second.
type meter struct {
	report func(Progress)
	now    func() time.Time

	mu      sync.Mutex
	start   time.Time
	last    time.Time // of the last report
	p       Progress
	samples []sample // the last seconds, oldest first
}

type sample struct {
	at   time.Time
	done int64
}

const (
	reportEvery = 250 * time.Millisecond
	rateOver    = 5 * time.Second
)

func newMeter(report func(Progress)) *meter {
	m := &meter{report: report, now: time.Now}
	m.start = m.now()
	return m
}

// phase begins a phase.
func (m *meter) phase(name string, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p = Progress{Phase: name, Total: total}
	m.samples = m.samples[:0]
	m.tell(m.now())
}

// add counts bytes.
func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Done += n
	if now := m.now(); now.Sub(m.last) >= reportEvery {
		m.tell(now)
	}
}

// grow adds to what the phase has to do.
func (m *meter) grow(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Total += n
}

// tell reports; the caller holds the lock.
func (m *meter) tell(now time.Time) {
	m.last = now
	m.samples = append(m.samples, sample{now, m.p.Done})
	for len(m.samples) > 2 && now.Sub(m.samples[0].at) > rateOver {
		m.samples = m.samples[1:]
	}
	m.p.Since, m.p.Rate = now.Sub(m.start), 0
	if first := m.samples[0]; now.After(first.at) {
		m.p.Rate = int64(float64(m.p.Done-first.done) / now.Sub(first.at).Seconds())
	}
	if m.report != nil {
		m.report(m.p)
	}
}
