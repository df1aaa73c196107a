package repo_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

// suspend writes a tree as a pending backup.
func suspend(ctx context.Context, r *repo.Repo, id repo.BackupID, t tree) error {
	w, err := r.Create(ctx, id, smallPacks())
	if err != nil {
		return err
	}
	defer w.Close()
	entries, err := writeFiles(ctx, w, t)
	if err != nil {
		return err
	}
	_, err = w.Suspend(ctx, repo.Contents{Backup: repotest.Backup(id), Entries: values(entries)})
	return err
}

func TestAPendingBackupExistsOnceItIsCommitted(t *testing.T) {
	r, _ := repotest.New(t)
	ctx, id, want := t.Context(), repotest.ID(1), sampleTree()
	if err := suspend(ctx, r, id, want); err != nil {
		t.Fatal(err)
	}
	if list, err := r.Backups(ctx); err != nil || len(list) != 0 {
		t.Errorf("listed while pending: %+v, %v", list, err)
	}
	if _, err := r.OpenManifest(ctx, id); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("opened while pending: %v", err)
	}
	if list, err := r.Pending(ctx); err != nil || len(list) != 1 || list[0].ID != id || list[0].Err != nil || list[0].Backup.Files != int64(len(want)) {
		t.Errorf("pending: %+v, %v", list, err)
	}
	for range 2 { // the second finds that somebody was faster
		if b, err := r.CommitPending(ctx, id); err != nil || b.ID != id {
			t.Fatalf("commit: %+v, %v", b, err)
		}
	}
	if list, err := r.Pending(ctx); err != nil || len(list) != 0 {
		t.Errorf("pending: %+v, %v", list, err)
	}
	got, err := readBack(ctx, r, id)
	if err != nil {
		t.Fatal(err)
	}
	sameTree(t, got, want)
	if _, err := r.CommitPending(ctx, repotest.ID(2)); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("commit of one that never was: %v", err)
	}
}

func TestADamagedPendingBackupIsNeverCommitted(t *testing.T) {
	store := mem.New()
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	ctx, id := t.Context(), repotest.ID(1)
	if err := suspend(ctx, r, id, smallTree()); err != nil {
		t.Fatal(err)
	}
	key := r.Key(repo.Key{Kind: repo.KeyPending, ID: id})
	good := object(t, store, key)
	for i := range good {
		b := append([]byte(nil), good...)
		b[i] ^= 1 << (i % 8)
		put(t, store, key, b)
		if _, err := r.CommitPending(ctx, id); !errors.Is(err, repo.ErrCorrupt) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	put(t, store, key, good)
	for _, k := range keys(t, store) {
		if strings.Contains(k, "/pack/") {
			store.Delete(ctx, k)
			break
		}
	}
	if _, err := r.CommitPending(ctx, id); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("without one of its packs: %v", err)
	}
	if list, err := r.Backups(ctx); err != nil || len(list) != 0 {
		t.Errorf("listed: %+v, %v", list, err)
	}
}

// Any operation of the commit may fail, with or without effect: the backup is
// then pending or committed, and a second try commits it.
func TestAFaultInThePendingCommitLosesNothing(t *testing.T) {
	for name, apply := range map[string]bool{"failed": false, "failed but applied": true} {
		t.Run(name, func(t *testing.T) {
			fired := true
			for n := 0; fired; n++ {
				inner := mem.New()
				ctx, id, want := t.Context(), repotest.ID(1), smallTree()
				if err := suspend(ctx, repo.Open(inner, repotest.Cluster, repo.Options{}), id, want); err != nil {
					t.Fatal(err)
				}
				count := 0 // one operation at a time: no lock needed
				store := storagetest.Faulty(inner, func(storagetest.Call) (bool, error) {
					count++
					if count-1 == n {
						return apply, errFault
					}
					return true, nil
				})
				_, err := repo.Open(store, repotest.Cluster, repo.Options{}).CommitPending(ctx, id)
				fired = count > n

				r := repo.Open(inner, repotest.Cluster, repo.Options{})
				list, listErr := r.Backups(ctx)
				if listErr != nil || err == nil && len(list) != 1 {
					t.Fatalf("operation %d: reported %v, listed %d, %v", n, err, len(list), listErr)
				}
				if _, err := r.CommitPending(ctx, id); err != nil {
					t.Fatalf("operation %d: second try: %v", n, err)
				}
				got, err := readBack(ctx, r, id)
				if err != nil {
					t.Fatal(err)
				}
				sameTree(t, got, want)
				repotest.Check(t, inner)
			}
		})
	}
}
