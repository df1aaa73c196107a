package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// meter shows how far a long command has come: one line that is drawn anew on a
// terminal, a log record every ten seconds otherwise, and a record at each
// change of phase. It is safe for concurrent use.
type meter struct {
	out io.Writer // nil: not a terminal
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	phase string
	began time.Time // of the phase
	first int64     // bytes done at its beginning
	said  time.Time
	drawn int // characters of the line on the terminal
}

const (
	logEvery  = 10 * time.Second
	drawEvery = 200 * time.Millisecond
)

// newMeter makes a meter for the command's standard error. Where the log goes
// there too, a record may cut the line; it is drawn again at once.
func (a *app) newMeter(log *slog.Logger) *meter {
	m := &meter{log: log, now: time.Now}
	if f, ok := a.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) && a.logFormat != "json" {
		m.out = f
	}
	return m
}

// report tells that a phase has done so many of total bytes; total 0 means that
// there is nothing to count.
func (m *meter) report(phase string, done, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if phase != m.phase {
		m.phase, m.began, m.first = phase, now, done
		m.clear()
		m.log.Info("phase", "phase", phase)
		m.said = now
	}
	every := logEvery
	if m.out != nil {
		every = drawEvery
	}
	if total <= 0 || now.Sub(m.said) < every {
		return
	}
	m.said = now
	rate := int64(0)
	if d := now.Sub(m.began).Seconds(); d > 0 {
		rate = int64(float64(done-m.first) / d)
	}
	if m.out == nil {
		m.log.Info("progress", "phase", phase, "done", size(done), "total", size(total), "percent", 100*done/total, "rate", size(rate)+"/s")
		return
	}
	m.draw(fmt.Sprintf("%s %3d %% %s of %s, %s/s%s", phase, 100*done/total, size(done), size(total), size(rate), left(done, total, rate)))
}

func left(done, total, rate int64) string {
	if rate <= 0 {
		return ""
	}
	return ", " + (time.Duration((total-done)/rate) * time.Second).String() + " left"
}

func (m *meter) draw(line string) {
	fmt.Fprintf(m.out, "\r%-*s", m.drawn, line)
	m.drawn = len(line)
}

func (m *meter) clear() {
	if m.out != nil && m.drawn > 0 {
		fmt.Fprintf(m.out, "\r%*s\r", m.drawn, "")
		m.drawn = 0
	}
}

// end takes the line off the terminal.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
}
