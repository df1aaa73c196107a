package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// ErrRunning means that another backup of the cluster shows signs of life.
var ErrRunning = errors.New("another backup of the cluster is running")

// alone refuses where another backup runs. Our own marker is stored already, so
// of two that begin at the same moment at least one sees the other. Nothing
// depends on it but work and space: two backups at once are both right.
func (t *run) alone(ctx context.Context) error {
	marked, err := t.Repo.RunningBackups(ctx)
	if err != nil {
		return err
	}
	rival, dead := judgeMarkers(marked, t.id, t.Grace, t.gone)
	for _, m := range dead {
		if synthesizes(m.Marker) {
			continue // it can be gone on with, as long as there is no newer backup
		}
		// Other hosts would wait for it to grow old.
		if err := removeDead(ctx, t.Repo, m.ID, t.Log); err != nil {
			return err
		}
	}
	if t.Leased && errors.Is(rival, ErrRunning) {
		t.Log.WarnContext(ctx, "going on beside it, for the cluster's backup lease is held here", "error", rival)
		return nil
	}
	return rival
}

func (t *run) gone(m repo.Running) bool { return goneFrom(m, t.Host) }

// judgeMarkers finds, in a listing that holds our own marker, the backup that
// runs beside ours, as an error, and those whose process is known to be gone.
// Ages are by the store's clock, whose present is when our own was stored.
func judgeMarkers(marked []repo.Marked[repo.Running], own repo.BackupID, grace time.Duration, gone func(repo.Running) bool) (rival error, dead []repo.Marked[repo.Running]) {
	var now time.Time
	for _, m := range marked {
		if m.ID == own {
			now = m.Renewed
		}
	}
	if now.IsZero() {
		return errors.New("our own running marker is not in the repository's listing: the store does not show what was stored"), nil
	}
	for _, m := range marked {
		age := now.Sub(m.Renewed)
		switch {
		case m.ID == own, age > grace:
		case m.Err == nil && gone(m.Marker):
			dead = append(dead, m)
		default:
			rival = finding.WithHint(
				fmt.Errorf("%w: %s by member %q on host %q, whose last sign of life is %s old", ErrRunning, m.ID, m.Marker.Member, m.Marker.Host, age.Round(time.Second)),
				"wait for it; if it was killed, its marker counts as dead after %s", grace)
		}
	}
	return rival, dead
}

// checkpoint makes sure, where the source is a standby, that it can make a
// restartpoint of now: otherwise the backup would begin at an old one, and need
// all the WAL since.
func (t *run) checkpoint(ctx context.Context) error {
	if !t.facts.Server.InRecovery {
		return nil
	}
	ctx, stop := context.WithTimeoutCause(ctx, t.ArchiveTimeout,
		fmt.Errorf("the standby has not replayed the primary's checkpoint within %s", t.ArchiveTimeout))
	defer stop()
	primary, err := t.Primary(ctx)
	if err != nil {
		return fmt.Errorf("connect to the primary: %w", err)
	}
	defer primary.Close()
	if err := primary.Checkpoint(ctx); err != nil {
		if server.IsDenied(err) {
			err = finding.WithHint(err, "the user needs to be superuser on the primary or, from version 15 on, a member of pg_checkpoint")
		}
		return fmt.Errorf("on the primary: %w", err)
	}
	// The checkpoint's record is flushed, and so before this.
	pos, err := primary.Positions(ctx)
	if err != nil {
		return fmt.Errorf("on the primary: %w", err)
	}
	t.Log.InfoContext(ctx, "waiting for the standby to replay the primary's checkpoint", "lsn", pos.Flush.String())
	err = t.conn.WaitReplay(ctx, pos.Flush, server.WaitOptions{Stall: t.ReplayStall})
	var stalled *server.StalledError
	if errors.As(err, &stalled) {
		hint := "look at this standby's replication (pgtender topology), or back up from another member"
		if stalled.Paused {
			hint = "resume replay with SELECT pg_wal_replay_resume(), or back up from another member"
		}
		err = finding.WithHint(err, "%s", hint)
	}
	return because(ctx, err)
}
