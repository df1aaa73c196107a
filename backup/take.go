package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pg/wal"
	"github.com/pgtender/pgtender/internal/process"
)

// Result is what [Take] did. After an error it tells how far it came.
type Result struct {
	Backup repo.Backup `json:"backup"` // as committed
	// Earlier are backups of earlier runs whose WAL had arrived by now, so that
	// they could be committed.
	Earlier []repo.BackupID `json:"earlier,omitempty"`

	// Plan is what was decided, kind and reason above all.
	Plan Plan `json:"plan"`

	Read int64 `json:"read_bytes"` // from the data directory

	// Where the time went, in nanoseconds: waiting for checkpoint and replay,
	// copying, waiting for WAL, and all of it.
	Checkpoint time.Duration `json:"checkpoint_ns"`
	Copy       time.Duration `json:"copy_ns"`
	WAL        time.Duration `json:"wal_ns"`
	Wall       time.Duration `json:"wall_ns"`
}

// run is one call of Take.
type run struct {
	Options
	id      repo.BackupID
	started time.Time
	facts   Facts
	plan    Plan
	lines   *lineages
	conn    *server.Conn // the session on the source: backup mode lives as long as it

	// marked is the parent that the running marker names, so that expire spares
	// what it leans on, and settled that no other can be taken any more.
	marked  repo.BackupID
	settled bool
	unfit   map[repo.BackupID]string // backups that turned out not to be whole, and how
	dry     bool                     // only a preview
	// Of an incremental backup; nil: it is a full one.
	parent *repo.Manifest
	blocks *wal.BlockMap // changed since the parent's start; nil: page LSNs tell

	total  int64 // bytes of the scan
	files  int
	result Result
	done   bool // committed
}

// Take takes a base backup of the server that runs in a local data directory.
// It returns nil once the backup exists, is whole and has its WAL archived, and
// only then. Where the copy is finished but its WAL does not arrive, the error
// is a [PendingError], and the copy is kept for the next run to commit.
//
// When ctx ends nothing more is stored, the server leaves backup mode, and the
// error matches context.Cause(ctx). Memory: see packMemory.
func Take(ctx context.Context, o Options) (Result, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Result{}, err
	}
	t := &run{Options: o, started: time.Now(), lines: &lineages{repo: o.Repo}}
	t.id = repo.NewBackupID(t.started)
	err = because(ctx, t.take(ctx))
	t.result.Plan, t.result.Wall = t.plan, time.Since(t.started)
	return t.result, err
}

// parentTries is how often a backup begins anew because the parent that its
// marker names turned out not to fit.
const parentTries = 3

func (t *run) take(ctx context.Context) error {
	for try := 1; ; try++ {
		t.settled = try == parentTries
		err := t.attempt(ctx)
		var other *otherParentError
		switch {
		case errors.As(err, &other):
			t.Log.InfoContext(ctx, "beginning anew, with another parent", "backup", t.id.String(), "parent", other.parent.String())
			t.marked = other.parent
		case errors.Is(err, repo.ErrCondemned) && !t.settled:
			// Between the choice and the marker an expire was faster.
			t.Log.InfoContext(ctx, "beginning anew, for the parent is condemned", "backup", t.id.String(), "parent", t.marked.String())
			t.marked = 0
		default:
			return err
		}
	}
}

func (t *run) attempt(ctx context.Context) (err error) {
	// 1. What may refuse does so before anything is written or asked of the
	// server. A crash leaves nothing.
	if t.conn, err = t.Source(ctx); err != nil {
		return fmt.Errorf("connect to the server of %s: %w", t.DataDir, err)
	}
	defer func() { t.conn.Close() }() // not the same one at the end, maybe
	if t.facts, err = inspect(ctx, t.Options, t.conn); err != nil {
		return err
	}
	if t.plan, err = Decide(t.facts); err != nil {
		return err
	}
	for _, f := range t.plan.Findings {
		if f.Severity >= finding.Warning {
			t.Log.WarnContext(ctx, f.Text, "hint", f.Hint)
		}
	}
	if err := t.expect(ctx); err != nil {
		return err
	}
	// Ids tell seconds only. Of two backups of one second, or with a clock that
	// was set back, the later one is to count as the newer.
	newest, err := t.Repo.NewestID(ctx)
	if err != nil {
		return err
	}
	if t.id <= newest {
		t.id = newerID(t.started, newest)
	}
	// 2. The marker says that this backup runs, and what it builds on. A crash
	// leaves it behind, and it grows old.
	marker := repo.Running{ID: t.id, Parent: t.marked, Member: t.Member, Host: t.Host, PID: os.Getpid(), Process: process.Mark(), Started: t.started}
	err = t.Repo.Heartbeat(ctx, marker, t.Beat, t.protocol)
	if t.done && err != nil {
		t.Log.WarnContext(ctx, "backup is complete, but cleaning up after it failed", "backup", t.id.String(), "error", err)
		return nil
	}
	return err
}

// protocol is everything that happens under the running marker.
func (t *run) protocol(ctx context.Context) error {
	if err := t.alone(ctx); err != nil {
		return err
	}
	if err := t.finishEarlier(ctx); err != nil {
		return err
	}
	// Writes run on ctx, not on the backup's own context, which ends with the
	// server's backup stop.
	w, err := t.Repo.Create(ctx, t.id, t.writeOptions())
	if err != nil {
		return err
	}
	defer w.Close()
	b, err := t.image(ctx, w)
	if err != nil {
		return fmt.Errorf("back up %s: %w", t.DataDir, err)
	}
	// 7. The copy is whole and kept, as pending. From here a crash loses
	// nothing: the next run commits it when its WAL is there.
	if err := t.awaitWAL(ctx, b); err != nil {
		return err
	}
	// 8. The manifest: now the backup exists.
	t.phase(PhaseCommit)
	if t.result.Backup, err = t.Repo.CommitPending(ctx, t.id); err != nil {
		return err
	}
	t.done = true
	t.Log.InfoContext(ctx, "backup is complete", "backup", t.id.String(), "start", b.Start.String(), "stop", b.Stop.String())
	// The WAL of earlier copies has come with ours, as a rule.
	if err := t.finishEarlier(ctx); err != nil {
		return err
	}
	return forgetSyntheses(ctx, t.Repo, t.id, t.gone, t.Log)
}

// finishEarlier commits what earlier runs left pending.
func (t *run) finishEarlier(ctx context.Context) error {
	done, err := FinishPending(ctx, t.Repo, t.Log)
	t.result.Earlier = append(t.result.Earlier, done...)
	return err
}

func (t *run) writeOptions() repo.WriteOptions {
	return repo.WriteOptions{BlockSize: int(t.facts.Control.BlockSize), PackSize: packSize(packMemory, t.Workers), Uploads: uploads}
}

// image brings a complete image of the data directory into the repository, as a
// pending backup. A crash leaves packs that no manifest names; the server ends
// backup mode by itself when the session breaks.
func (t *run) image(ctx context.Context, w *repo.Writer) (repo.Backup, error) {
	// 3. A fresh restartpoint, and backup mode.
	t.phase(PhaseCheckpoint)
	begin := time.Now()
	if err := t.checkpoint(ctx); err != nil {
		return repo.Backup{}, err
	}
	label := t.Label
	if label == "" {
		label = t.id.String()
	}
	live, b, err := t.conn.StartBackup(ctx, server.BackupOptions{Label: label, Fast: t.Fast})
	if err != nil {
		return repo.Backup{}, err
	}
	defer b.Abort()
	t.result.Checkpoint = time.Since(begin)
	if err := t.choose(live, b.Start); err != nil {
		return repo.Backup{}, because(live, err)
	}
	t.Log.InfoContext(ctx, "backup started", "backup", t.id.String(), "start", b.Start.String(), "source", t.plan.Role, "kind", string(t.plan.Kind), "why", t.plan.Why)

	// 4. and 5. What belongs to the backup, and its content.
	img, err := t.copyFiles(live, w, b.Start.LSN)
	if err != nil {
		return repo.Backup{}, because(live, err)
	}
	// 6. pg_control last, and the end of backup mode.
	t.phase(PhaseStop)
	if err := img.stop(live, t, b); err != nil {
		// Not because of live: the stop itself ends it, and tells why it was
		// lost before.
		return repo.Backup{}, err
	}
	return img.suspend(ctx, t, w)
}

// phase tells that a phase begins.
func (t *run) phase(p Phase) {
	t.Progress(Progress{Phase: p, Done: t.result.Read, Total: t.total, Files: t.files})
}

// because puts what ended ctx before an error that may only be a consequence of
// it.
func because(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if err == nil || cause == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}
