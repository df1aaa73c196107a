package catchup

import (
	"encoding/json"
	"os"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
)

// Published is the content of the file progress.json in the directory .pgtender
// of a data directory, as long as a run works there. Its keys are part of the
// interface. Who reads it looks at its age too: a run that was killed leaves it
// behind.
type Published struct {
	Way         RungName      `json:"way"`
	Backup      repo.BackupID `json:"backup,omitzero"`
	PID         int           `json:"pid"`
	At          time.Time     `json:"at"`
	Phase       string        `json:"phase"`
	Done        int64         `json:"done_bytes"`
	Total       int64         `json:"total_bytes"` // 0: not known
	Rate        int64         `json:"bytes_per_second"`
	SecondsLeft int64         `json:"seconds_left"` // of the phase, -1: not known
	Seconds     int64         `json:"seconds"`      // since the run began
}

const (
	progressName = "progress.json"
	publishEvery = time.Second
)

// publisher writes the file. A failure to do so is not worth a restore.
type publisher struct {
	runner *runner
	last   time.Time
	phase  string
}

// publish writes down how far the run is, at each new phase and once a second.
func (p *publisher) publish(now Progress) {
	at := time.Now()
	if now.Phase == p.phase && at.Sub(p.last) < publishEvery {
		return
	}
	p.last, p.phase = at, now.Phase
	r := p.runner
	out := Published{
		Way: r.plan.Choice, Backup: r.plan.Backup.ID, PID: os.Getpid(), At: at.UTC().Truncate(time.Millisecond),
		Phase: now.Phase, Done: now.Done, Total: now.Total, Rate: now.Rate, SecondsLeft: -1, Seconds: int64(now.Since.Seconds()),
	}
	if now.Rate > 0 && now.Total >= now.Done {
		out.SecondsLeft = (now.Total - now.Done) / now.Rate
	}
	b, err := json.Marshal(out)
	if err != nil || r.lock.held() != nil {
		return // the directory is somebody else's by now
	}
	name := workPath(r.dir(), progressName)
	if os.WriteFile(name+".new", append(b, '\n'), 0o644) == nil {
		os.Rename(name+".new", name)
	}
}

// retract removes the file.
func (p *publisher) retract() {
	if p.runner.lock.held() != nil {
		return
	}
	name := workPath(p.runner.dir(), progressName)
	os.Remove(name + ".new")
	os.Remove(name)
}
