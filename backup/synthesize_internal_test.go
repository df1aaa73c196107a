package backup

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
)

// worked is a line with a full backup and some on it.
func worked(t *testing.T) *line {
	t.Helper()
	l := newLine(t, 3)
	l.grow(16384, 300)
	l.grow(16385, 20)
	l.grow(16386, 1)
	l.backUp(t)
	for range 5 {
		l.update(16384, 10)
		l.update(16386, 1)
		l.cut(16385, 15)
		l.grow(16385, 4)
		l.backUp(t)
	}
	return l
}

func TestASyntheticBackupIsTheSameImageAndLeansOnNoOther(t *testing.T) {
	l := worked(t)
	of, err := l.repo.OpenManifest(t.Context(), l.id())
	if err != nil {
		t.Fatal(err)
	}
	b, err := Synthesize(t.Context(), SynthesizeOptions{Repo: l.repo, ToolVersion: "test", Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	m, err := l.repo.OpenManifest(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Generations) != 1 || b.Kind != repo.Synthetic || b.Parent != of.ID() || b.Start != of.Backup.Start || b.Stop != of.Backup.Stop || b.Bytes != of.Backup.Bytes || b.Files != of.Backup.Files {
		t.Errorf("made %+v of %+v, with generations %v", b, of.Backup, m.Generations)
	}
	if w := WeightOf(of); w.Oldest != repotest.ID(1) || w.Full >= w.All || w.Full == 0 {
		t.Errorf("weight before: %+v", w)
	}
	if w := WeightOf(m); w.Oldest != b.ID || w.Full != w.All {
		t.Errorf("weight after: %+v", w)
	}
	markers, err := l.repo.RunningBackups(t.Context())
	if err != nil || len(markers) != 0 {
		t.Errorf("%d markers are left, %v", len(markers), err)
	}
	repotest.Check(t, l.meter)
	// Everything else may go.
	for o, err := range l.meter.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(o.Key, b.ID.String()) {
			if err := l.meter.Delete(t.Context(), o.Key); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, got := range content(t, l.repo, b.ID) {
		if strings.HasSuffix(name, "/") {
			continue
		}
		want, err := os.ReadFile(filepath.Join(l.dir.Root, name))
		if err != nil || !bytes.Equal(want, got) {
			t.Errorf("%s differs (%v)", name, err)
		}
	}
	if _, err := Synthesize(t.Context(), SynthesizeOptions{Repo: l.repo, ToolVersion: "test"}); !errors.Is(err, ErrNothingToSynthesize) {
		t.Errorf("of a backup that leans on no other: %v", err)
	}
}

func TestASyntheticBackupIsNewerThanWhatItIsMadeOf(t *testing.T) {
	now := time.Date(2026, 8, 1, 3, 0, 0, 0, time.UTC)
	for _, of := range []time.Time{now.Add(-time.Hour), now, now.Add(time.Hour)} {
		for range 100 { // the last digits are random
			if of := repo.NewBackupID(of); newerID(now, of) <= of {
				t.Fatalf("made of %s at %s: not newer", of, now)
			}
		}
	}
}

func TestNoSyntheticBackupIsMadeOfDamage(t *testing.T) {
	l := worked(t)
	inner := l.meter.Unwrap()
	first := l.repo.Key(repo.Key{Kind: repo.KeyPack, ID: repotest.ID(1), Number: 1})
	broken := read(t, inner, first)
	for i := 2000; i < len(broken)-2000; i += 1000 {
		broken[i] ^= 1
	}
	if err := inner.Put(t.Context(), first, bytes.NewReader(broken), int64(len(broken)), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Synthesize(t.Context(), SynthesizeOptions{Repo: l.repo, ToolVersion: "test", Workers: 2}); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	list, err := l.repo.Backups(t.Context())
	if err != nil || len(list) != l.n {
		t.Errorf("%d backups are listed, %v", len(list), err)
	}
}

func TestASynthesisThatIsStoppedLeavesNoBackup(t *testing.T) {
	l := worked(t)
	ctx, stop := context.WithCancelCause(t.Context())
	why := errors.New("stopped")
	o := SynthesizeOptions{Repo: l.repo, ToolVersion: "test", Workers: 2, Progress: func(Progress) { stop(why) }}
	if _, err := Synthesize(ctx, o); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	list, err := l.repo.Backups(t.Context())
	if err != nil || len(list) != l.n {
		t.Errorf("%d backups are listed, %v", len(list), err)
	}
}

func TestASyntheticBackupIsDueByAgeOrShare(t *testing.T) {
	old, newest := repotest.ID(1), repotest.ID(9)
	month := old.Time().Add(31 * 24 * time.Hour)
	for _, c := range []struct {
		name   string
		policy SyntheticPolicy
		weight Weight
		due    bool
	}{
		{"no policy", SyntheticPolicy{}, Weight{old, 10, 100}, false},
		{"old", SyntheticPolicy{After: 30 * 24 * time.Hour}, Weight{old, 100, 110}, true},
		{"not old enough", SyntheticPolicy{After: 32 * 24 * time.Hour}, Weight{old, 100, 110}, false},
		{"much that is superseded", SyntheticPolicy{Share: 50}, Weight{old, 100, 201}, true},
		{"half", SyntheticPolicy{Share: 50}, Weight{old, 100, 200}, false},
		{"stands on its own", SyntheticPolicy{After: time.Hour, Share: 100}, Weight{newest, 100, 200}, false},
	} {
		if why := c.policy.Due(c.weight, newest, month); (why != "") != c.due {
			t.Errorf("%s: got %q", c.name, why)
		}
	}
}
