package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// store puts a backup without files into the repository, committed or pending.
func store(t *testing.T, r *repo.Repo, id repo.BackupID, pending bool) {
	t.Helper()
	w, err := r.Create(t.Context(), id, repo.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	put := w.Commit
	if pending {
		put = w.Suspend
	}
	if _, err := put(t.Context(), repo.Contents{Backup: repotest.Backup(id), Entries: repo.Values[repo.Entry](nil)}); err != nil {
		t.Fatal(err)
	}
}

// A store that fails says nothing about what it holds.
func TestABackupThatCannotBeReadIsNotCalledDamaged(t *testing.T) {
	refused := false
	faulty := storagetest.Faulty(mem.New(), func(c storagetest.Call) (bool, error) {
		if refused && c.Verb == storagetest.Get && strings.Contains(c.Key, "/manifest/") {
			return false, &storage.Error{Op: "get", Key: c.Key, Err: fs.ErrPermission}
		}
		return true, nil
	})
	r := repo.Open(faulty, repotest.Cluster, repo.Options{})
	store(t, r, repotest.ID(1), false)
	refused = true
	list, err := backup.List(t.Context(), r)
	if err != nil || len(list) != 1 || list[0].Status != backup.Unreadable || list[0].Backup != nil {
		t.Errorf("listed %+v, %v", list, err)
	}
	for _, f := range backup.Findings(t.Context(), faulty, repotest.Cluster) {
		if strings.Contains(f.Text, "damaged") || strings.Contains(f.Hint, "take a new backup") {
			t.Errorf("found %s", f)
		}
	}
}

func TestAListingShowsBackupsThatAreNoneYetAndDamagedOnes(t *testing.T) {
	inner := mem.New()
	r := repo.Open(inner, repotest.Cluster, repo.Options{})
	store(t, r, repotest.ID(1), false)
	store(t, r, repotest.ID(2), true)
	store(t, r, repotest.ID(3), false)
	store(t, r, repotest.ID(4), true)
	store(t, r, repotest.ID(4), false) // killed between commit and clean-up
	key := r.Key(repo.Key{Kind: repo.KeyManifest, ID: repotest.ID(3)})
	if err := inner.Put(t.Context(), key, bytes.NewReader([]byte("rubbish")), 7, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := backup.List(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list {
		got = append(got, s.ID.String()+" "+string(s.Status))
		if (s.Backup == nil) != (s.Status == backup.Damaged) || (s.Error == "") != (s.Status != backup.Damaged) {
			t.Errorf("%+v", s)
		}
	}
	want := []string{
		repotest.ID(1).String() + " complete", repotest.ID(2).String() + " pending",
		repotest.ID(3).String() + " damaged", repotest.ID(4).String() + " complete",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestABackupIsUsableWhereItsHistoryAndWALLeadOn(t *testing.T) {
	b := repotest.Backup(repotest.ID(1)) // timeline 2, left timeline 1 at 0/3000000; from 0/5000028 to 0/5000138
	own := b.StopHistory()
	next := func(at pg.LSN) pg.History {
		return pg.History{Timeline: 3, Forks: append(own.Forks[:1:1], pg.Fork{Parent: 2, Switch: at, Reason: "promoted"})}
	}
	other := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x2000000, Reason: "promoted"}}}
	for _, c := range []struct {
		name   string
		target pg.History
		until  pg.LSN
		change func(*archive.Cover)
		why    string
	}{
		{name: "its own timeline", target: own, until: 0x6000000},
		{name: "a timeline that left after it", target: next(b.Stop.LSN), until: 0x6000000},
		{name: "a timeline that left before its stop", target: next(b.Stop.LSN - 1), until: 0x6000000, why: "left timeline 2"},
		{name: "another timeline of that number", target: other, until: 0x6000000, why: "another one"},
		{name: "a timeline before it", target: pg.FirstTimeline(), until: 0x6000000, why: "does not descend"},
		{name: "its WAL is missing", target: own, until: 0x5000000, why: "000000020000000000000005"},
		{name: "the coverage begins later", target: own, until: 0x6000000, change: func(c *archive.Cover) { c.From = b.Start.LSN + 1 }, why: "not known"},
		{name: "the coverage is of another history", target: own, until: 0x6000000, change: func(c *archive.Cover) { c.History = next(b.Stop.LSN) }, why: "not known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cover := archive.Cover{History: c.target, From: b.Start.LSN, Until: c.until, Missing: pg.Segment{Timeline: 2, Number: 5}}
			if c.change != nil {
				c.change(&cover)
			}
			err := backup.Usable(&b, cover, c.target)
			var unusable *backup.UnusableError
			if errors.As(err, &unusable) != (c.why != "") || err != nil && !strings.Contains(err.Error(), c.why) {
				t.Errorf("got %v, want %q", err, c.why)
			}
		})
	}
}

// loose is a store that cannot create conditionally.
type loose struct{ storage.Store }

func (loose) ConditionalPut(context.Context) (bool, error) { return false, nil }

func TestFindingsOfARepository(t *testing.T) {
	deny := func(verb storagetest.Verb) func(storage.Store) storage.Store {
		return func(s storage.Store) storage.Store {
			return storagetest.Faulty(s, func(c storagetest.Call) (bool, error) {
				if c.Verb == verb {
					return false, storage.ErrForbidden
				}
				return true, nil
			})
		}
	}
	for _, c := range []struct {
		name  string
		wrap  func(storage.Store) storage.Store
		fill  func(*testing.T, storage.Store)
		worst finding.Severity
		text  string
	}{
		{name: "all is well", worst: finding.OK, text: "can be written"},
		{name: "it cannot be written", wrap: deny(storagetest.Put), worst: finding.Error, text: "permission"},
		{name: "it cannot be read", wrap: deny(storagetest.Get), worst: finding.Error, text: "permission"},
		{name: "it cannot be listed", wrap: deny(storagetest.List), worst: finding.Error, text: "permission"},
		{name: "nothing can be deleted", wrap: deny(storagetest.Delete), worst: finding.Error, text: "permission"},
		{name: "what is stored is not listed", wrap: func(s storage.Store) storage.Store {
			return storagetest.Faulty(s, func(c storagetest.Call) (bool, error) { return c.Verb != storagetest.List, nil })
		}, worst: finding.Error, text: "not listed"},
		{name: "no conditional create", wrap: func(s storage.Store) storage.Store { return loose{s} }, worst: finding.Warning, text: "only if it is absent"},
		{name: "another cluster of that scope", fill: func(t *testing.T, s storage.Store) {
			id := repotest.Cluster
			id.SystemID++
			r := repo.Open(s, id, repo.Options{})
			if err := r.PutOwner(t.Context(), 0, repo.Owner{ID: "x", Created: repotest.ID(1).Time()}); err != nil {
				t.Fatal(err)
			}
		}, worst: finding.Info, text: "another cluster"},
		{name: "a backup that waits for WAL", fill: func(t *testing.T, s storage.Store) {
			store(t, repo.Open(s, repotest.Cluster, repo.Options{}), repotest.ID(1), true)
		}, worst: finding.Warning, text: "waits for its WAL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, s := repotest.New(t)
			if c.fill != nil {
				c.fill(t, s)
			}
			if c.wrap != nil {
				s = c.wrap(s)
			}
			found := backup.Findings(t.Context(), s, repotest.Cluster)
			finding.Sort(found)
			if finding.Worst(found) != c.worst || !strings.Contains(found[0].Text, c.text) {
				t.Errorf("found %v", found)
			}
			if c.worst > finding.OK && found[0].Hint == "" {
				t.Errorf("no hint with %v", found[0])
			}
		})
	}
}
