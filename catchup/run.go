package catchup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/durable"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// RunOptions say how a plan is carried out. Repo is required.
type RunOptions struct {
	Repo *repo.Repo
	// RestoreCommand is what the server is to fetch WAL with, as the setting
	// of this name has it; it follows Plan.Timeline. Required but for a
	// replica, whose settings Patroni writes.
	RestoreCommand string
	Workers        int    // requests, decoders and writers; 0: as many as processors, 2 to 16
	Member         string // this member's name, for the marker in the repository
	// Archive pushes a WAL file of old data that was never archived, before
	// that data is removed. nil, or an error: the file is kept in [SavedWAL].
	Archive func(ctx context.Context, path string) error
	// Audit reads every page that converging by block maps would keep, and
	// refuses to if one was changed later than is possible: a proof that no
	// change was overlooked, at the price of reading the whole directory.
	Audit bool
	// Owner gets all files, if this process may give them away: whoever starts
	// the server. Zero: the owner of the data directory, or of the one above.
	Owner Owner
	// Buffered writes large files through the page cache instead of past it.
	Buffered bool
	// Progress is called some times a second, by one goroutine at a time.
	Progress func(Progress)

	Log *slog.Logger // nil discards

	step func(name string) // called after each step, for tests that kill
}

// Result is what a run did.
type Result struct {
	Backup   repo.BackupID `json:"backup"`
	Dir      string        `json:"directory"`
	Rung     RungName      `json:"rung"`
	Files    int64         `json:"files"`           // that were written
	Kept     int64         `json:"kept_files"`      // that were right already
	Bytes    int64         `json:"bytes"`           // that were written
	Resumed  int64         `json:"resumed_files"`   // that an earlier run had written
	Segments int           `json:"wal_segments"`    // put into pg_wal
	Saved    []string      `json:"saved,omitempty"` // unarchived WAL of the old data that was kept aside
	Duration time.Duration `json:"duration_ns"`
}

// Run carries out a plan. Once it returns nil the directory is complete and
// durable: a server that is started there recovers as planned. Until then none
// can start there, whatever happens, and what was done is not lost: the same
// plan, or a new one for the same backup, goes on from there.
//
// When ctx ends, Run stops within seconds and touches the directory no more.
// Of its errors, [ErrLocked] means that another run is at work, and
// repo.ErrCorrupt that the backup is damaged.
func Run(ctx context.Context, p Plan, o RunOptions) (Result, error) {
	if err := o.check(&p); err != nil {
		return Result{}, err
	}
	l, err := acquire(p.Dir.Path)
	if err != nil {
		return Result{}, err
	}
	r := &runner{plan: &p, opts: o, lock: l, log: o.Log, meter: newMeter(o.Progress)}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.result = Result{Backup: p.Backup.ID, Dir: p.Dir.Path, Rung: p.Choice}
	published := &publisher{runner: r}
	r.meter.report = func(now Progress) {
		if o.Progress != nil {
			o.Progress(now)
		}
		published.publish(now)
	}
	err = r.run(ctx)
	published.retract()
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = finding.WithHint(err, "make room for %s and run it again: what was fetched is kept", p.Dir.Path)
	} else if _, stateErr := readState(p.Dir.Path); err != nil && stateErr == nil {
		hint := fmt.Sprintf("no server can start in %s until it is whole; the same command goes on from here", p.Dir.Path)
		if cause := finding.Hint(err); cause != "" {
			hint = cause + "; " + hint
		}
		err = finding.WithHint(err, "%s", hint)
	}
	r.result.Duration = time.Since(r.meter.start)
	return r.result, errors.Join(err, l.release(), r.tidy(err))
}

func (o *RunOptions) check(p *Plan) error {
	switch {
	case p.Backup.ID == 0 && p.Choice != ByReplay || p.Dir.Path == "" || p.Choice == "":
		return errors.New("run: this is no plan")
	case p.Snapshot:
		return refuse(false, "stop it, and plan again", "%s is in use: the plan was made while a server ran there (process %d)", p.Dir.Path, p.Dir.PID)
	case p.Purpose != Replica && o.RestoreCommand == "":
		return errors.New("run: a restore needs a restore_command")
	}
	if o.Workers <= 0 {
		o.Workers = min(max(runtime.GOMAXPROCS(0), 2), 16)
	}
	return nil
}

// runner is one run. Its methods are called one after the other.
type runner struct {
	plan  *Plan
	opts  RunOptions
	lock  *lock
	log   *slog.Logger
	meter *meter
	files durable.FS

	manifest *repo.Manifest
	state    state
	tree     *tree
	result   Result
}

// step tells that something is done which a killed run's successor finds.
func (r *runner) step(name string) {
	if r.opts.step != nil {
		r.opts.step(name)
	}
}

func (r *runner) dir() string { return r.plan.Dir.Path }

func (r *runner) run(ctx context.Context) error {
	if err := r.recheck(ctx); err != nil {
		return err
	}
	switch r.plan.Choice {
	case Nothing:
		return r.clean()
	case ByReplay:
		if err := r.follow(ctx); err != nil {
			return err
		}
		return r.give(r.dir())
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	reader := repo.Reader{ID: repo.NewBackupID(time.Now()), Backup: r.plan.Backup.ID, Member: r.opts.Member, Host: host, PID: os.Getpid(), Started: time.Now()}
	began, finished := false, false
	err = r.opts.Repo.Heartbeat(ctx, reader, repo.Beat{Lapse: neverLapses}, func(ctx context.Context) error {
		began = true
		err := r.work(ctx)
		finished = err == nil
		return err
	})
	switch {
	case err != nil && finished:
		// Nothing is wrong with the directory. The marker ends by its age.
		r.log.WarnContext(ctx, "marker of this restore was not removed from the repository", "error", err)
		return nil
	case err != nil && !began && ctx.Err() == nil && !errors.Is(err, repo.ErrCondemned):
		r.log.WarnContext(ctx, "repository cannot be written to, so nothing keeps the backup from expiring while it is restored", "backup", r.plan.Backup.ID, "error", err)
		return r.work(ctx)
	}
	return err
}

// neverLapses: a restore goes on although its marker could not be renewed. A
// full or read-only repository must not stop the one thing it is for, and what
// is read is verified frame by frame, so an expired backup shows.
const neverLapses = 100 * 365 * 24 * time.Hour

// recheck makes sure, under the lock, that the directory is still as the plan
// found it.
func (r *runner) recheck(ctx context.Context) error {
	was := r.plan.Dir
	now, err := inspect(ctx, was.Path)
	if err != nil {
		return err
	}
	if now.State == DirForeign && was.State != DirForeign || now.Running || now.State != was.State || now.SystemID != was.SystemID || now.Backup != was.Backup || now.Rung != was.Rung || now.control != was.control {
		return finding.WithHint(fmt.Errorf("%s has changed since the plan was made: it was %s, now it is %s%s", was.Path, describe(was), describe(now), example(now)),
			"see what else works on the directory, and try again")
	}
	return nil
}

func describe(d DirFacts) string {
	if d.Running {
		return "in use"
	}
	return string(d.State)
}

func example(d DirFacts) string {
	if d.Example == "" {
		return ""
	}
	return " and holds " + d.Example
}

// work does everything, in the order that makes a kill harmless at each step.
func (r *runner) work(ctx context.Context) (err error) {
	// Whether the backup is whole is seen before anything is touched.
	if r.manifest, err = r.opts.Repo.OpenManifest(ctx, r.plan.Backup.ID); err != nil {
		return fmt.Errorf("open backup %s: %w", r.plan.Backup.ID, err)
	}
	if err := r.manifest.Prove(ctx); err != nil {
		return fmt.Errorf("prove that backup %s is complete: %w", r.plan.Backup.ID, err)
	}
	if err := r.stillCovered(ctx); err != nil {
		return err
	}
	commit := false
	if r.plan.Choice.inPlace() {
		err = r.stageInPlace(ctx)
	} else if commit, err = r.prepare(ctx); err == nil && !commit {
		err = r.stage(ctx)
	}
	if err != nil {
		return err
	}
	if !commit {
		if err := r.give(r.dir()); err != nil {
			return err
		}
		r.step("given")
	}
	// From here on there are only some renames to be done, so that a context
	// that ends now ends nothing any more.
	return r.commit(ctx)
}

// prepare makes the directory ready for staging, and reports whether an
// earlier run has left nothing to do but the commit.
func (r *runner) prepare(ctx context.Context) (commit bool, err error) {
	s, err := readState(r.dir())
	switch {
	case err == nil:
		r.state = s
		mine := s.Backup == r.plan.Backup.ID && s.SystemID == r.plan.Backup.SystemID
		if s.Phase == phaseCommitting && mine && s.Purpose == r.plan.Purpose && s.Target.same(r.plan.Target) && !r.plan.Replace {
			r.log.InfoContext(ctx, "an interrupted restore is finished", "backup", s.Backup)
			return true, nil
		}
		if s.Phase == phaseStaging && mine && samePlaces(s.Places, r.plan.Places) && !r.plan.Replace {
			r.log.InfoContext(ctx, "an interrupted restore goes on", "backup", s.Backup)
			r.state.Purpose, r.state.Target = r.plan.Purpose, r.plan.Target
			if err := r.state.write(r.dir()); err != nil {
				return false, fmt.Errorf("write state: %w", err)
			}
			// The run may have been killed before it had made them.
			return false, r.makePlaces()
		}
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	if err := r.clear(ctx); err != nil {
		return false, err
	}
	r.state = state{
		Version: stateVersion, ID: rand.Text(), Phase: phaseStaging,
		Purpose: r.plan.Purpose, Target: r.plan.Target, Scope: r.opts.Repo.Cluster().Scope,
		SystemID: r.plan.Backup.SystemID, Backup: r.plan.Backup.ID, Places: r.plan.Places, Old: r.state.Old,
	}
	if err := r.state.write(r.dir()); err != nil {
		return false, fmt.Errorf("write state: %w", err)
	}
	return false, r.makePlaces()
}

// stillCovered makes sure that the archive holds what the plan found there. WAL
// past a backup's end is kept from expiring by nothing but a reader's marker, and
// the plan was made before this run's was in place.
func (r *runner) stillCovered(ctx context.Context) error {
	was, b := &r.plan.Cover, &r.plan.Backup
	now, err := archive.RestoreCoverage(ctx, r.opts.Repo, r.plan.Lineage.History, b.SegmentSize, b.Start.LSN)
	if err != nil {
		return fmt.Errorf("see whether the archived WAL is still there: %w", err)
	}
	if end := was.End(); !now.RestoresTo(end) {
		return refuse(false, "try again: the plan is made anew, with another backup if need be",
			"WAL that the plan counts on has gone from the archive since: %s is missing, and recovery from backup %s was to go to %s", now.Missing.Name(b.SegmentSize), b.ID, end)
	}
	return nil
}

func samePlaces(a, b []Place) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// makePlaces makes the stage and the marked places that it leads to.
func (r *runner) makePlaces() error {
	if err := r.files.MkdirAll(workPath(r.dir(), stageName), 0o700); err != nil {
		return fmt.Errorf("make stage: %w", err)
	}
	for _, p := range r.plan.Places {
		if err := r.files.MkdirAll(p.Path, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		if err := mark(p.Path, marker{Dir: r.dir(), SystemID: r.plan.Backup.SystemID}); err != nil {
			return fmt.Errorf("mark directory: %w", err)
		}
	}
	return nil
}

// clean removes what a finished run has left. The directory is complete
// already.
func (r *runner) clean() error {
	for _, p := range r.plan.Places {
		if err := r.files.Remove(filepath.Join(p.Path, markerName)); err != nil {
			return fmt.Errorf("remove marker: %w", err)
		}
	}
	r.step("committed")
	for _, name := range []string{journalName, oldName, controlName, changesName, replayedName} {
		if err := os.Remove(workPath(r.dir(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove work files: %w", err)
		}
	}
	if err := os.RemoveAll(workPath(r.dir(), stageName)); err != nil {
		return fmt.Errorf("remove work files: %w", err)
	}
	// An attempt that a full disk ended has made it, perhaps, and put nothing in.
	if err := os.Remove(workPath(r.dir(), savedName)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("remove work files: %w", err)
	}
	if err := r.sweep(); err != nil {
		return err
	}
	r.step("cleaned")
	// Last, for it makes the next run do the rest of this.
	if err := r.files.SyncDir(workPath(r.dir())); err != nil {
		return fmt.Errorf("remove work files: %w", err)
	}
	if err := r.files.Remove(workPath(r.dir(), stateName)); err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	return nil
}

// tidy removes the work directory after a run, if nothing is in it that is
// worth keeping.
func (r *runner) tidy(err error) error {
	removeErr := os.Remove(workPath(r.dir()))
	if err != nil || removeErr == nil || errors.Is(removeErr, fs.ErrNotExist) || errors.Is(removeErr, fs.ErrExist) {
		return nil // an error is about more than that; a directory that is not empty stays
	}
	return fmt.Errorf("remove work directory: %w", removeErr)
}

// errWritten means that the target got files of somebody else during the run.
func errWritten(dir, name string) error {
	return finding.WithHint(fmt.Errorf("somebody else has written to %s: it holds %s now", dir, name), "see what else works on the directory; remove what is not this restore's")
}

// control is where pg_control lies in a directory.
func controlPath(dir string) string { return filepath.Join(dir, filepath.FromSlash(pg.ControlPath)) }
