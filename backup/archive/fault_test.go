package archive_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/pg"
)

// TestEachStoreCallOfAPushFails: a push that fails is tried again, as the
// archiver does, and then has archived the file; one that succeeds has archived
// it already.
func TestEachStoreCallOfAPushFails(t *testing.T) {
	first, second := rivals()
	h := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x580000}}}
	for _, c := range []struct {
		name     string
		before   *builder // archived already
		content  []byte   // of segment 4; nil: the history
		leader   bool
		refused  bool // ends in quarantine
		archived []byte
	}{
		{"a segment", nil, first.segments[4], false, false, first.segments[4]},
		{"a segment that is there", first, first.segments[4], false, false, first.segments[4]},
		{"a leader's that differs", first, second.segments[4], true, false, second.segments[4]},
		{"another's that differs", first, second.segments[4], false, true, first.segments[4]},
		{"a history", nil, nil, false, false, nil},
	} {
		for _, applied := range []bool{false, true} {
			for fail := 1; ; fail++ {
				inner := mem.New()
				sound := repo.Open(storagetest.Enforce(t, inner, nil), repotest.Cluster, repo.Options{})
				dir := t.TempDir()
				if c.before != nil {
					push(t, sound, c.before.save(t, dir, 4, ""))
				}
				var mu sync.Mutex
				calls := 0
				faulty := repo.Open(storagetest.Faulty(inner, func(storagetest.Call) (bool, error) {
					mu.Lock()
					defer mu.Unlock()
					if calls++; calls == fail {
						return applied, errors.New("broken")
					}
					return true, nil
				}), repotest.Cluster, repo.Options{})
				path := save(t, filepath.Join(dir, first.name(4)), c.content)
				name := first.name(4)
				if c.content == nil {
					path, name = saveHistory(t, dir, h), "00000002.history"
				}
				opts := archive.PushOptions{Path: path, CheckOwner: func(ctx context.Context) error {
					_, err := archive.CheckOwner(ctx, faulty, (&fakeDCS{id: "a"}).dcs())
					return err
				}}
				if c.leader {
					opts.Leadership = leads
				}
				_, err := archive.Push(t.Context(), faulty, opts)
				mu.Lock()
				done := calls < fail
				calls = fail // no further failure
				mu.Unlock()
				if err != nil { // again, and nothing is broken any more
					_, err = archive.Push(t.Context(), faulty, opts)
				}
				if c.refused && !errors.Is(err, repo.ErrConflict) || !c.refused && err != nil {
					t.Errorf("%s, call %d (applied: %v): %v", c.name, fail, applied, err)
				}
				dest := filepath.Join(dir, "out")
				if err := get(t, sound, h, name, dest); err != nil {
					t.Errorf("%s, call %d (applied: %v): fetch: %v", c.name, fail, applied, err)
				} else if got, _ := os.ReadFile(dest); c.content != nil && !bytes.Equal(got, c.archived) {
					t.Errorf("%s, call %d (applied: %v): the wrong content is served", c.name, fail, applied)
				}
				if n := len(alarmKinds(t, sound)); (c.before != nil && !bytes.Equal(c.content, c.before.segments[4])) != (n > 0) {
					t.Errorf("%s, call %d (applied: %v): %d alarms", c.name, fail, applied, n)
				}
				repotest.Check(t, inner)
				if done {
					break
				}
			}
		}
	}
}

// TestAPushThatSucceedsIsStored: a push of which the store lost every answer
// must not say "archived" without looking.
func TestAPushThatSucceedsIsStored(t *testing.T) {
	b, dir := filled(1, 4, 4), t.TempDir()
	path := b.save(t, dir, 4, "")
	for _, applied := range []bool{false, true} {
		inner := mem.New()
		r := repo.Open(storagetest.Faulty(inner, func(c storagetest.Call) (bool, error) {
			if c.Verb == storagetest.Put {
				return applied, errors.New("the answer was lost")
			}
			return true, nil
		}), repotest.Cluster, repo.Options{})
		_, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path})
		if (err == nil) != applied {
			t.Errorf("the put had effect: %v, the push says %v", applied, err)
		}
	}
}

// fleeting is a store that shows objects of which it cannot say that they stay, as a
// directory on a file system that has failed.
type fleeting struct {
	storage.Store
	lost error // nil: they stay
}

func (f *fleeting) Unwrap() storage.Store                 { return f.Store }
func (f *fleeting) Persist(context.Context, string) error { return f.lost }

// TestWhatDoesNotStayIsNotArchived: PostgreSQL removes what was archived, so no way
// to find the content in the repository may be a success before it is known to stay.
func TestWhatDoesNotStayIsNotArchived(t *testing.T) {
	first, second := rivals()
	h := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x580000}}}
	for _, c := range []struct {
		name   string
		before []*builder // archived by the leader, one after the other
		push   func(dir string) archive.PushOptions
		loses  bool // the answer to each put
	}{
		{"asked for first", []*builder{first}, func(dir string) archive.PushOptions {
			return archive.PushOptions{Path: first.save(t, dir, 4, ""), Expected: true}
		}, false},
		{"found by the put", []*builder{first}, func(dir string) archive.PushOptions {
			return archive.PushOptions{Path: first.save(t, dir, 4, "")}
		}, false},
		{"found after the put has failed", nil, func(dir string) archive.PushOptions {
			return archive.PushOptions{Path: first.save(t, dir, 4, "")}
		}, true},
		{"beside a different one", []*builder{first, second}, func(dir string) archive.PushOptions {
			return archive.PushOptions{Path: second.save(t, dir, 4, "")}
		}, false},
		{"a history", []*builder{nil}, func(dir string) archive.PushOptions {
			return archive.PushOptions{Path: saveHistory(t, dir, h)}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inner := mem.New()
			sound := repo.Open(inner, repotest.Cluster, repo.Options{})
			for _, b := range c.before {
				o := archive.PushOptions{Leadership: leads}
				if dir := t.TempDir(); b == nil {
					o.Path = saveHistory(t, dir, h)
				} else {
					o.Path = b.save(t, dir, 4, "")
				}
				if _, err := archive.Push(t.Context(), sound, o); err != nil {
					t.Fatal(err)
				}
			}
			store := &fleeting{inner, errors.New("read-only file system")}
			r := repo.Open(storagetest.Faulty(store, func(call storagetest.Call) (bool, error) {
				if c.loses && call.Verb == storagetest.Put {
					return true, errors.New("the answer was lost")
				}
				return true, nil
			}), repotest.Cluster, repo.Options{})
			o := c.push(t.TempDir())
			if result, err := archive.Push(t.Context(), r, o); err == nil {
				t.Errorf("the file is %q", result.Outcome)
			}
			store.lost = nil
			if _, err := archive.Push(t.Context(), r, o); err != nil {
				t.Errorf("the file system is mended: %v", err)
			}
		})
	}
}

// TestPushersRace: two of them with one segment at the same moment.
func TestPushersRace(t *testing.T) {
	first, second := rivals()
	run := func(t *testing.T, r *repo.Repo, opts ...archive.PushOptions) []error {
		t.Helper()
		errs := make([]error, len(opts))
		var wg sync.WaitGroup
		for i, o := range opts {
			wg.Go(func() { _, errs[i] = archive.Push(t.Context(), r, o) })
		}
		wg.Wait()
		return errs
	}
	a := archive.PushOptions{Path: first.save(t, t.TempDir(), 4, ""), Member: "a"}
	same := archive.PushOptions{Path: first.save(t, t.TempDir(), 4, ""), Member: "b"}
	differs := archive.PushOptions{Path: second.save(t, t.TempDir(), 4, ""), Member: "b"}
	for range 10 {
		r, store := repotest.New(t)
		if errs := run(t, r, a, same); errors.Join(errs...) != nil || len(keys(t, store)) != 1 {
			t.Errorf("equal content: %v, objects %q", errs, keys(t, store))
		}

		r, store = repotest.New(t)
		errs := run(t, r, a, differs)
		if (errs[0] == nil) == (errs[1] == nil) || len(keys(t, store)) != 3 {
			t.Errorf("different content: %v, objects %q", errs, keys(t, store))
		}

		r, _ = repotest.New(t)
		leader := differs
		leader.Leadership = leads
		errs = run(t, r, a, leader)
		if errs[1] != nil {
			t.Errorf("different content, one of them the leader's: %v", errs)
		}
		dest := filepath.Join(t.TempDir(), "out")
		if err := get(t, r, pg.FirstTimeline(), first.name(4), dest); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(dest); !bytes.Equal(got, second.segments[4]) {
			t.Error("the leader's is not the one that counts")
		}
	}
}

func TestACancelledPushStoresNothing(t *testing.T) {
	r, store := repotest.New(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	lost := errors.New("lease lost")
	cancel(lost)
	_, err := archive.Push(ctx, r, archive.PushOptions{Path: filled(1, 4, 4).save(t, t.TempDir(), 4, "")})
	if !errors.Is(err, lost) && !errors.Is(err, context.Canceled) || len(keys(t, store)) != 0 {
		t.Errorf("error is %v, objects %q", err, keys(t, store))
	}
}
