package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
)

// Pusher archives the segments that it is asked for, and those that wait behind
// them, in parallel. It remembers what it archived: when PostgreSQL comes for
// such a segment, the answer costs nothing. Nobody else gets an answer from
// memory.
type Pusher struct {
	// WALDir is the member's pg_wal; files elsewhere are refused.
	WALDir string
	// Archive stores one segment, as [archive.Push] with Assist does: it leaves
	// no trace where it fails.
	Archive func(ctx context.Context, path string, how How) (archive.PushResult, error)
	Ahead   archive.AheadOptions
	Timeout time.Duration  // of one segment
	Pacer   *archive.Pacer // that Archive uses is told what waits; nil: there is none

	mu       sync.Mutex
	archived map[string]archive.FileID
	order    []string        // of archived, oldest first
	jobs     map[string]*job // that are at work or wait
	queue    []*job          // those that wait, in the order in which they are needed
	at       int             // how many are at work
	running  sync.WaitGroup
	failed   time.Time // of the last attempt; zero if that succeeded
	stats    PushStats
}

// How says how a segment is to be archived.
type How struct {
	Late     bool // nobody else is to be waited for
	Expected bool // the repository most likely has it, see [archive.PushOptions]
}

// PushStats count what a Pusher did.
type PushStats struct {
	Archived int64  `json:"archived"` // segments, by the agent
	Answered int64  `json:"answered"` // requests to which the answer was "done"
	Failed   int64  `json:"failed"`   // attempts
	Error    string `json:"error,omitempty"`
	Last     string `json:"last,omitempty"` // archived
}

// job is the archiving of one segment.
type job struct {
	name   string
	id     archive.FileID
	begun  bool
	how    How
	done   chan struct{} // closed at the end
	result archive.PushResult
	err    error
}

// remembered is how many archived segments are kept in mind.
const remembered = 4096

// Push archives the segment at path. It returns once the segment is in the
// repository; those behind it are worked at after that, for as long as life
// lasts.
func (p *Pusher) Push(ctx, life context.Context, path string) (archive.Outcome, error) {
	name := filepath.Base(path)
	if parsed, err := repo.ParseWALName(name); err != nil || parsed.Segment == "" || parsed.Partial || parsed.Backup {
		return "", fmt.Errorf("%s is no whole segment, which is all that it archives", name)
	}
	if err := SameDir(filepath.Dir(path), p.WALDir); err != nil {
		return "", err
	}
	j, err := p.start(life, name, urgency{asked: true, known: p.waits(name)})
	if err != nil {
		return "", err
	}
	p.Pacer.Look(p.WALDir, name)
	for _, next := range archive.Waiting(p.WALDir, name, p.Ahead) {
		p.start(life, next, urgency{known: true}) // what it fails at is said when it is asked for
	}
	outcome := archive.AlreadyArchived
	if j != nil {
		if outcome, err = j.wait(ctx); err != nil {
			return "", err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Answered++
	return outcome, nil
}

// waits reports whether PostgreSQL offers a segment. Whoever else comes for one,
// such as an operator who removed a damaged object, may know better than what is
// remembered.
func (p *Pusher) waits(name string) bool {
	_, err := os.Stat(filepath.Join(p.WALDir, "archive_status", name+".ready"))
	return err == nil
}

// Late archives segments that nobody asked for and that the repository was just
// seen to lack, whatever is remembered of them. It returns when that is done
// with, well or not, by name.
func (p *Pusher) Late(ctx, life context.Context, names []string) map[string]error {
	jobs, out := map[string]*job{}, map[string]error{}
	for _, name := range names {
		j, err := p.start(life, name, urgency{late: true})
		if err != nil {
			out[name] = err
			continue
		}
		jobs[name] = j
	}
	for name, j := range jobs {
		_, out[name] = j.wait(ctx)
	}
	return out
}

func (j *job) wait(ctx context.Context) (archive.Outcome, error) {
	select {
	case <-j.done:
		return j.result.Outcome, j.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// urgency says how a segment is to be archived.
type urgency struct {
	asked bool // somebody waits, so that it waits for no worker
	known bool // that it was archived before, from the same file, is an answer
	late  bool // whoever else is to archive it has had its time
}

// start makes sure that a segment is being archived, and gives the job; nil if it
// is known to be archived.
func (p *Pusher) start(life context.Context, name string, how urgency) (*job, error) {
	path := filepath.Join(p.WALDir, name)
	id, err := archive.IdentifyFile(path)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.archived[name]; how.known && ok && known == id {
		return nil, nil
	}
	if p.jobs == nil {
		p.jobs, p.archived = map[string]*job{}, map[string]archive.FileID{}
	}
	j, ok := p.jobs[name]
	if !ok {
		j = &job{name: name, id: id, how: How{Late: how.late, Expected: how.asked && !how.known}, done: make(chan struct{})}
		p.jobs[name] = j
		p.queue = append(p.queue, j)
	}
	if how.asked && !j.begun {
		p.queue = slices.DeleteFunc(p.queue, func(o *job) bool { return o == j })
		p.begin(life, j, true)
	}
	p.dispatch(life)
	return j, nil
}

// dispatch begins what waits, as far as there are workers. The caller has p.mu.
func (p *Pusher) dispatch(life context.Context) {
	for len(p.queue) > 0 && p.at < max(1, p.Ahead.Workers) {
		j := p.queue[0]
		p.queue = p.queue[1:]
		p.begin(life, j, false)
	}
}

// begin begins a job. The caller has p.mu.
func (p *Pusher) begin(life context.Context, j *job, asked bool) {
	j.begun = true
	p.at++
	p.running.Go(func() { p.run(life, j, asked) })
}

// run archives one segment. While the repository does not take what is asked
// for, nothing is tried ahead.
func (p *Pusher) run(life context.Context, j *job, asked bool) {
	switch {
	case life.Err() != nil:
		j.err = context.Cause(life)
	case !asked && p.failing():
		j.err = errFailing
	default:
		ctx, cancel := context.WithTimeoutCause(life, p.Timeout, fmt.Errorf("not archived within %s", p.Timeout))
		j.result, j.err = p.Archive(ctx, filepath.Join(p.WALDir, j.name), j.how)
		cancel()
	}
	p.finish(life, j)
}

var errFailing = errors.New("not tried, as another one has just failed")

// failing reports whether the last attempt failed less than a moment ago.
func (p *Pusher) failing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.failed.IsZero() && time.Since(p.failed) < failPause
}

// failPause is how long after a failure nothing is tried that was not asked
// for.
const failPause = 5 * time.Second

// finish keeps what became of a segment.
func (p *Pusher) finish(life context.Context, j *job) {
	name := j.name
	// Whoever asks from now on finds it archived, or begins anew.
	if now, err := archive.IdentifyFile(filepath.Join(p.WALDir, name)); j.err == nil && (err != nil || now != j.id) {
		j.err = errors.Join(errChanged, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.jobs, name)
	p.at--
	p.dispatch(life)
	if j.err == nil {
		p.archived[name] = j.id
		p.order = append(p.order, name)
		for ; len(p.order) > remembered; p.order = p.order[1:] {
			delete(p.archived, p.order[0])
		}
		p.stats.Archived++
		p.stats.Last, p.stats.Error, p.failed = name, "", time.Time{}
	} else if j.err != errFailing {
		p.stats.Failed++
		p.stats.Error, p.failed = fmt.Sprintf("%s: %v", name, j.err), time.Now()
	}
	close(j.done)
}

var errChanged = errors.New("the file changed while it was archived")

// Wait returns when nothing is being archived any more; the context given to
// Push as life must have ended.
func (p *Pusher) Wait() { p.running.Wait() }

// Stats gives the counts so far.
func (p *Pusher) Stats() PushStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// SameDir reports an error unless a is the agent's pg_wal b.
func SameDir(a, b string) error {
	own, err := os.Stat(b)
	if err != nil {
		return err
	}
	its, err := os.Stat(a)
	if err == nil && !os.SameFile(own, its) {
		err = fmt.Errorf("%s is not the pg_wal of the agent's member, which is %s", a, b)
	}
	return err
}
