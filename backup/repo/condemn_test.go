package repo_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
)

func TestACondemnedBackupIsListedAsSuchAndCannotBeBegunWith(t *testing.T) {
	ctx := t.Context()
	r, _ := repotest.New(t)
	for n := range 2 {
		if _, err := writeFull(ctx, r, repotest.ID(n+1), sampleTree(), smallPacks()); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Condemn(ctx, repo.Condemnation{Subject: repotest.ID(1).String(), Reason: "too old"}); err != nil {
		t.Fatal(err)
	}
	list, err := r.Backups(ctx)
	if err != nil || len(list) != 2 {
		t.Fatalf("listed %d: %v", len(list), err)
	}
	if !errors.Is(list[0].Err, repo.ErrCondemned) || list[0].Backup.ID != repotest.ID(1) || list[1].Err != nil {
		t.Errorf("listed with %v and %v", list[0].Err, list[1].Err)
	}
	begin := func(m repo.Marker) (begun bool, err error) {
		err = r.Heartbeat(ctx, m, repo.Beat{}, func(context.Context) error { begun = true; return nil })
		return begun, err
	}
	now := time.Now()
	for _, m := range []repo.Marker{
		repo.Reader{ID: repotest.ID(7), Backup: repotest.ID(1), Started: now},
		repo.Running{ID: repotest.ID(7), Parent: repotest.ID(1), Started: now},
	} {
		if begun, err := begin(m); begun || !errors.Is(err, repo.ErrCondemned) {
			t.Errorf("%T that names a condemned backup begins: %v, %v", m, begun, err)
		}
	}
	if begun, err := begin(repo.Running{ID: repotest.ID(7), Parent: repotest.ID(2), Started: now}); !begun || err != nil {
		t.Errorf("a marker that names another backup begins: %v, %v", begun, err)
	}
	running, _ := r.RunningBackups(ctx)
	readers, _ := r.Readers(ctx)
	if len(running)+len(readers) != 0 {
		t.Errorf("markers of what was refused stay: %v, %v", running, readers)
	}
}

func TestACondemnationEndsOnce(t *testing.T) {
	ctx := t.Context()
	r, _ := repotest.New(t)
	id := repotest.ID(1)
	for _, first := range []repo.Verdict{repo.Pardoned, repo.Removing} {
		if err := r.Condemn(ctx, repo.Condemnation{Subject: id.String(), Reason: "too old"}); err != nil {
			t.Fatal(err)
		}
		c := condemnations(t, r)[0]
		for _, v := range []repo.Verdict{first, repo.Pardoned, repo.Removing} {
			if got, err := r.Settle(ctx, c, v); err != nil || got != first {
				t.Errorf("settled as %q, then %q: %q, %v", first, v, got, err)
			}
		}
		if got := condemnations(t, r)[0]; got.Verdict != first || got.Subject != c.Subject || got.Err != nil {
			t.Errorf("read back as %+v, want %q", got, first)
		}
		if err := r.CheckCondemned(ctx, id); (err == nil) != (first == repo.Pardoned) {
			t.Errorf("%s: %v", first, err)
		}
		if err := r.ForgetCondemnation(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		if left := condemnations(t, r); len(left) != 0 {
			t.Errorf("left: %+v", left)
		}
	}
}

func condemnations(t *testing.T, r *repo.Repo) []repo.Condemnation {
	t.Helper()
	all, err := r.Condemnations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAFencedBackupCanNeverBeCommitted(t *testing.T) {
	ctx := t.Context()
	r, store := repotest.New(t)
	id := repotest.ID(1)
	if fenced, err := r.Fence(ctx, id); !fenced || err != nil {
		t.Fatalf("fenced %v, %v", fenced, err)
	}
	if fenced, err := r.Fence(ctx, id); !fenced || err != nil {
		t.Errorf("again: fenced %v, %v", fenced, err)
	}
	if _, err := writeFull(ctx, r, id, sampleTree(), smallPacks()); !errors.Is(err, repo.ErrConflict) {
		t.Errorf("its commit: %v, want a conflict", err)
	}
	if list, err := r.Backups(ctx); err != nil || len(list) != 0 {
		t.Errorf("listed: %v, %v", list, err)
	}
	if _, err := r.OpenManifest(ctx, id); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("opened: %v, want that it does not exist", err)
	}
	fences, err := r.Fences(ctx)
	if _, ok := fences[id]; err != nil || !ok || len(fences) != 1 {
		t.Errorf("fences: %v, %v", fences, err)
	}
	if _, err := writeFull(ctx, r, repotest.ID(2), sampleTree(), smallPacks()); err != nil {
		t.Fatal(err)
	}
	if fenced, err := r.Fence(ctx, repotest.ID(2)); fenced || err != nil {
		t.Errorf("a complete backup: fenced %v, %v", fenced, err)
	}
	for o, err := range store.List(ctx, r.Key(repo.Key{Kind: repo.KeyManifest, ID: repotest.ID(2)}), "") {
		if err != nil || o.Size <= 264 {
			t.Errorf("a manifest of %d bytes could be a tombstone: %v", o.Size, err)
		}
	}
}

func TestTheStoreTellsItsTime(t *testing.T) {
	r, store := repotest.New(t)
	before := time.Now()
	now, err := r.StoreTime(t.Context())
	if err != nil || now.Before(before.Add(-time.Minute)) || now.After(before.Add(time.Minute)) {
		t.Errorf("it is %s (%v)", now, err)
	}
	if k := keys(t, store); len(k) != 0 {
		t.Errorf("left behind: %q", k)
	}
}
