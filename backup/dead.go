package backup

import (
	"context"
	"log/slog"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/process"
)

// goneFrom reports whether the process that a marker is of is known to have
// ended, seen from a host.
func goneFrom(m repo.Running, host string) bool {
	return process.Gone(m.PID, m.Process, m.Host == host)
}

// synthesizes reports whether a marker is of a synthetic backup being made.
func synthesizes(m repo.Running) bool { return m.Stage == string(repo.Synthetic) }

// synthesisPatience is how long a synthetic backup whose process died can be gone
// on with, if none is newer than the one that it is made of.
const synthesisPatience = 7 * 24 * time.Hour

// forgetSyntheses removes the markers of synthetic backups that are neither the
// newest backup nor made of it and whose processes are gone: nobody will go on
// with them, and expire may have their packs.
func forgetSyntheses(ctx context.Context, r *repo.Repo, newest repo.BackupID, gone func(repo.Running) bool, log *slog.Logger) error {
	marked, err := r.RunningBackups(ctx)
	if err != nil {
		return err
	}
	for _, m := range marked {
		if m.Err == nil && synthesizes(m.Marker) && m.ID != newest && m.Marker.Parent != newest && gone(m.Marker) {
			if err := removeDead(ctx, r, m.ID, log); err != nil {
				return err
			}
		}
	}
	return nil
}

func removeDead(ctx context.Context, r *repo.Repo, id repo.BackupID, log *slog.Logger) error {
	log.InfoContext(ctx, "removing the running marker of a backup whose process is gone", "backup", id.String())
	return r.RemoveMarker(ctx, repo.KeyRunning, id)
}
