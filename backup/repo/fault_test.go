package repo_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

var errFault = errors.New("the network is down")

// Whatever happens to any single operation of a backup, or from it on: a backup
// that is listed reads back whole, and one that was reported is listed.
func TestAFaultNeverLeavesAListedBackupThatDoesNotRead(t *testing.T) {
	type fault struct {
		name    string
		onwards bool // every later operation fails too, without effect: killed
		apply   bool
		err     error
		fine    bool // the backup must succeed all the same
	}
	faults := []fault{
		{name: "failed", err: errFault},
		{name: "failed but applied", apply: true, err: errFault},
		{name: "killed before", onwards: true, err: errFault},
		{name: "killed behind", onwards: true, apply: true, err: errFault},
		{name: "applied, but said to exist", apply: true, err: storage.ErrExists, fine: true},
		{name: "not applied, but said to be", apply: false, err: nil},
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			fired := true
			for n := int64(0); fired; n++ {
				inner := mem.New()
				var count atomic.Int64
				store := storagetest.Faulty(storagetest.Enforce(t, inner, nil), func(c storagetest.Call) (bool, error) {
					if c.Verb != storagetest.Put && !f.onwards {
						return true, nil
					}
					switch i := count.Add(1) - 1; {
					case i == n:
						return f.apply, f.err
					case i > n && f.onwards:
						return false, errFault
					}
					return true, nil
				})
				want := sampleTree()
				_, err := writeFull(t.Context(), repo.Open(store, repotest.Cluster, repo.Options{}), repotest.ID(1), want, smallPacks())
				fired = count.Load() > n
				if (f.fine || !fired) && err != nil {
					t.Fatalf("operation %d: %v", n, err)
				}

				// Start anew, as another process would.
				r := repo.Open(inner, repotest.Cluster, repo.Options{})
				list, listErr := r.Backups(t.Context())
				if listErr != nil {
					t.Fatal(listErr)
				}
				if err == nil && len(list) != 1 {
					t.Fatalf("operation %d: reported as done, but %d are listed", n, len(list))
				}
				for _, l := range list {
					got, err := readBack(t.Context(), r, l.ID)
					if l.Err != nil || err != nil {
						t.Fatalf("operation %d: listed, but: %v, %v", n, l.Err, err)
					}
					sameTree(t, got, want)
				}
				repotest.Check(t, inner)
			}
		})
	}
}

func TestAPackOfAnotherWriterUnderOurKeyStopsTheBackup(t *testing.T) {
	store := mem.New()
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	put(t, store, r.Key(repo.Key{Kind: repo.KeyPack, ID: repotest.ID(1), Number: 2}), []byte("somebody else's"))
	_, err := writeFull(t.Context(), r, repotest.ID(1), sampleTree(), smallPacks())
	if !errors.Is(err, repo.ErrConflict) {
		t.Errorf("error %v, want a conflict", err)
	}
	if list, err := r.Backups(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("listed: %v, %v", list, err)
	}
}

func TestASecondCommitOfOneIDIsAConflict(t *testing.T) {
	r, store := repotest.New(t)
	if _, err := writeFull(t.Context(), r, repotest.ID(1), sampleTree(), smallPacks()); err != nil {
		t.Fatal(err)
	}
	before := len(keys(t, store))
	other := tree{"x": []byte("other")}
	if _, err := writeFull(t.Context(), r, repotest.ID(1), other, smallPacks()); !errors.Is(err, repo.ErrConflict) {
		t.Errorf("error %v, want a conflict", err)
	}
	if n := len(keys(t, store)); n != before {
		t.Errorf("%d objects, before %d", n, before)
	}
}

// Once the context has ended, nothing more is stored.
func TestNothingIsStoredOnceTheContextHasEnded(t *testing.T) {
	cause := errors.New("the lease is lost")
	fired := true
	for n := 0; fired; n++ {
		inner := mem.New()
		ctx, cancel := context.WithCancelCause(t.Context())
		puts := 0 // one upload at a time: no lock needed
		fired = false
		store := storagetest.Faulty(inner, func(c storagetest.Call) (bool, error) {
			if c.Verb != storagetest.Put {
				return true, nil
			}
			if puts == n {
				fired = true
				cancel(cause)
			}
			puts++
			return true, nil
		})
		opts := smallPacks()
		opts.Uploads = 1
		_, err := writeFull(ctx, repo.Open(store, repotest.Cluster, repo.Options{}), repotest.ID(1), sampleTree(), opts)
		if fired {
			if !errors.Is(err, context.Canceled) && !errors.Is(err, cause) {
				t.Errorf("put %d: error %v, want the context's", n, err)
			}
			if k := keys(t, inner); len(k) != n {
				t.Errorf("put %d: %d objects stored after the end", n, len(k)-n)
			}
		} else if err != nil {
			t.Error(err)
		}
		cancel(nil)
	}
}

func TestBeforeCommitIsAskedLast(t *testing.T) {
	r, store := repotest.New(t)
	veto := errors.New("a generation is condemned")
	opts := smallPacks()
	packs := 0
	opts.BeforeCommit = func(context.Context) error {
		packs = len(keys(t, store))
		return veto
	}
	b, err := writeFull(t.Context(), r, repotest.ID(1), sampleTree(), opts)
	if !errors.Is(err, veto) || b.backup.ID != 0 {
		t.Errorf("error %v, want the veto", err)
	}
	k := keys(t, store)
	if len(k) != packs || packs < 3 || strings.Contains(fmt.Sprint(k), "manifest") {
		t.Errorf("asked with %d packs stored, now %q", packs, k)
	}
}
