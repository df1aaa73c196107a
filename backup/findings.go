package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/finding"
)

// Findings tries the repository out for one cluster, and tells what is in it
// that needs somebody's attention. It stores a small object, reads it back and
// removes it. The findings say everything, errors included.
func Findings(ctx context.Context, store storage.Store, cluster repo.ClusterID) []finding.Finding {
	r := repo.Open(store, cluster, repo.Options{})
	if err := probe(ctx, r); err != nil {
		return []finding.Finding{{Severity: finding.Error, Text: fmt.Sprintf("repository %s: %v", store, err), Hint: probeHint(err)}}
	}
	out := []finding.Finding{{Severity: finding.OK, Text: fmt.Sprintf("repository %s can be written, read and listed", store)}}
	out = append(out, conditional(ctx, store)...)
	out = append(out, others(ctx, store, cluster)...)
	return append(out, unwell(ctx, r)...)
}

// probe goes through put, list, get and delete. The object is the marker of a
// reader, so that whoever looks meanwhile knows what it is.
func probe(ctx context.Context, r *repo.Repo) error {
	now := time.Now()
	host, _ := os.Hostname() // for people; "" does no harm
	m := repo.Reader{ID: repo.NewBackupID(now), Host: host, PID: os.Getpid(), Started: now}
	return r.Heartbeat(ctx, m, repo.Beat{}, func(ctx context.Context) error {
		readers, err := r.Readers(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(readers, func(f repo.Marked[repo.Reader]) bool { return f.ID == m.ID })
		if i < 0 {
			return errors.New("an object that was just stored is not listed")
		}
		return readers[i].Err
	})
}

func probeHint(err error) string {
	switch hint := finding.Hint(err); {
	case hint != "":
		return hint
	case errors.Is(err, storage.ErrForbidden):
		return "give the user of the servers the right to put, get, list and delete below the repository"
	case errors.Is(err, storage.ErrNoStore):
		return "create the bucket or directory, or mount it; every member needs the same one"
	}
	return "check the repository's address, credentials and network from this host"
}

func conditional(ctx context.Context, store storage.Store) []finding.Finding {
	switch atomic, err := storage.ConditionalPut(ctx, store); {
	case err != nil:
		return []finding.Finding{{Severity: finding.Error, Text: fmt.Sprintf("repository %s: whether it creates objects only if absent cannot be tried: %v", store, err), Hint: finding.Hint(err)}}
	case !atomic:
		return []finding.Finding{{
			Severity: finding.Warning,
			Text:     fmt.Sprintf("repository %s cannot create an object only if it is absent: two members that write at the same moment may overwrite each other's WAL", store),
			Hint:     "use a store with conditional writes, and see that only one member archives at a time",
		}}
	}
	return nil
}

// others finds what a mistaken scope leaves behind: parts of the repository with
// the same scope and another system identifier.
func others(ctx context.Context, store storage.Store, cluster repo.ClusterID) []finding.Finding {
	ids, err := repo.Clusters(ctx, store, cluster.Scope)
	if err != nil {
		return []finding.Finding{{Severity: finding.Error, Text: err.Error(), Hint: finding.Hint(err)}}
	}
	var out []finding.Finding
	for _, id := range ids {
		if id.Group == cluster.Group && id.SystemID != cluster.SystemID {
			out = append(out, finding.Finding{
				Severity: finding.Info,
				Text:     fmt.Sprintf("the repository also holds scope %s with system identifier %s, another cluster of that name", id.Scope, id.SystemID),
				Hint:     "if the cluster was initialised anew, its old backups are there; if it was not, check scope and system identifier",
			})
		}
	}
	return out
}

// unwell tells of backups that wait for WAL or are damaged.
func unwell(ctx context.Context, r *repo.Repo) []finding.Finding {
	list, err := List(ctx, r)
	if err != nil {
		return []finding.Finding{{Severity: finding.Error, Text: err.Error(), Hint: finding.Hint(err)}}
	}
	var out []finding.Finding
	for _, s := range list {
		switch s.Status {
		case Damaged:
			out = append(out, finding.Finding{Severity: finding.Error, Text: fmt.Sprintf("backup %s is damaged: %s", s.ID, s.Error), Hint: "take a new backup"})
		case Unreadable:
			out = append(out, finding.Finding{Severity: finding.Error, Text: fmt.Sprintf("backup %s cannot be read: %s", s.ID, s.Error),
				Hint: "it may be sound: look why this user on this host cannot read it, and verify it with: pgtender verify " + s.ID.String()})
		case Pending:
			out = append(out, finding.Finding{
				Severity: finding.Warning, Text: fmt.Sprintf("backup %s waits for its WAL to be archived and cannot be restored yet", s.ID),
				Hint: "make archiving work; the next pgtender backup commits it",
			})
		}
	}
	return out
}
