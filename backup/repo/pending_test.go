package repo_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

// suspended stores a tree as a pending backup.
func suspended(t *testing.T, r *repo.Repo, id repo.BackupID, content tree) {
	t.Helper()
	w, err := r.Create(t.Context(), id, smallPacks())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	entries, err := writeFiles(t.Context(), w, content)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Suspend(t.Context(), repo.Contents{Backup: repotest.Backup(id), Entries: repo.Values(entries)}); err != nil {
		t.Fatal(err)
	}
}

func TestAPendingBackupExistsOnceItIsCommitted(t *testing.T) {
	r, store := repotest.New(t)
	id := repotest.ID(1)
	suspended(t, r, id, sampleTree())
	if list, err := r.Backups(t.Context()); err != nil || len(list) != 0 {
		t.Fatalf("listed: %v, %v", list, err)
	}
	pending, err := r.Pending(t.Context())
	if err != nil || len(pending) != 1 || pending[0].ID != id || pending[0].Err != nil {
		t.Fatalf("pending: %+v, %v", pending, err)
	}
	for range 2 { // the second finds the work done
		b, err := r.CommitPending(t.Context(), id)
		if err != nil || b.ID != id || b.Files != pending[0].Backup.Files {
			t.Fatalf("committed %+v, %v", b, err)
		}
	}
	if pending, err := r.Pending(t.Context()); err != nil || len(pending) != 0 {
		t.Errorf("still pending: %v, %v", pending, err)
	}
	got, err := readBack(t.Context(), r, id)
	if err != nil {
		t.Fatal(err)
	}
	sameTree(t, got, sampleTree())
	if slices.ContainsFunc(keys(t, store), func(k string) bool { return strings.Contains(k, "/pending/") }) {
		t.Error("the pending manifest is still there")
	}
}

func TestAPendingBackupThatIsDamagedIsNotCommitted(t *testing.T) {
	id := repotest.ID(1)
	for _, c := range []struct {
		name string
		harm func(t *testing.T, s storage.Store, r *repo.Repo)
		want error
	}{
		{"a byte of the manifest is wrong", func(t *testing.T, s storage.Store, r *repo.Repo) {
			key := r.Key(repo.Key{Kind: repo.KeyPending, ID: id})
			b := object(t, s, key)
			b[len(b)/2] ^= 1
			if err := storage.PutBytes(t.Context(), s, key, b, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}, repo.ErrCorrupt},
		{"the end of the manifest is missing", func(t *testing.T, s storage.Store, r *repo.Repo) {
			key := r.Key(repo.Key{Kind: repo.KeyPending, ID: id})
			b := object(t, s, key)
			if err := storage.PutBytes(t.Context(), s, key, b[:len(b)-1], storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}, repo.ErrCorrupt},
		{"a pack is gone", func(t *testing.T, s storage.Store, r *repo.Repo) {
			if err := s.Delete(t.Context(), r.Key(repo.Key{Kind: repo.KeyPack, ID: id, Number: 1})); err != nil {
				t.Fatal(err)
			}
		}, storage.ErrNotExist},
		{"it was never there", func(t *testing.T, s storage.Store, r *repo.Repo) {
			if err := r.RemovePending(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}, storage.ErrNotExist},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mem.New()
			r := repo.Open(s, repotest.Cluster, repo.Options{})
			suspended(t, r, id, sampleTree())
			c.harm(t, s, r)
			if _, err := r.CommitPending(t.Context(), id); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if list, err := r.Backups(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("listed: %v, %v", list, err)
			}
		})
	}
}

func TestCommittingAPendingBackupSurvivesEachFailure(t *testing.T) {
	broken := errors.New("the store is broken")
	for failAt := 1; ; failAt++ {
		reached := false
		for _, apply := range []bool{false, true} {
			s := mem.New()
			suspended(t, repo.Open(s, repotest.Cluster, repo.Options{}), repotest.ID(1), sampleTree())
			calls := 0
			r := repo.Open(storagetest.Faulty(s, func(storagetest.Call) (bool, error) {
				if calls++; calls == failAt {
					reached = true
					return apply, broken
				}
				return true, nil
			}), repotest.Cluster, repo.Options{})
			_, err := r.CommitPending(t.Context(), repotest.ID(1))
			whole := repo.Open(s, repotest.Cluster, repo.Options{})
			list, listErr := whole.Backups(t.Context())
			if listErr != nil || err == nil && len(list) != 1 {
				t.Errorf("request %d fails, applied: %v: got %v, listed %d (%v)", failAt, apply, err, len(list), listErr)
			}
			// Whatever happened, the next attempt ends it.
			if _, err := whole.CommitPending(context.Background(), repotest.ID(1)); err != nil {
				t.Errorf("request %d fails, applied: %v: the second attempt: %v", failAt, apply, err)
			}
			repotest.Check(t, s)
		}
		if !reached {
			return
		}
	}
}
