package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
)

// These tests run an expiry and somebody else on one repository in many orders
// of their steps. A step is a run of requests of one verb for one kind of
// object; nothing else that either does can be seen by the other.

// stepper is a store that stops before each step until it is told to go on.
type stepper struct {
	storage.Store
	mu    sync.Mutex
	last  string
	ready chan bool // true: before a step; closed at the end
	goOn  chan struct{}
}

func newStepper(s storage.Store) *stepper {
	return &stepper{Store: s, ready: make(chan bool), goOn: make(chan struct{})}
}

func (s *stepper) step(verb, key string) {
	parts := strings.SplitN(key, "/", 4)
	class := verb + " " + parts[min(2, len(parts)-1)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if class == s.last {
		return
	}
	s.last = class
	s.ready <- true
	<-s.goOn
}

func (s *stepper) Put(ctx context.Context, key string, src io.ReaderAt, size int64, opts storage.PutOptions) error {
	s.step("put", key)
	return s.Store.Put(ctx, key, src, size, opts)
}

func (s *stepper) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	s.step("get", key)
	return s.Store.Get(ctx, key, off, n)
}

func (s *stepper) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		s.step("list", prefix)
		s.Store.List(ctx, prefix, after)(yield)
	}
}

func (s *stepper) Delete(ctx context.Context, key string) error {
	s.step("delete", key)
	return s.Store.Delete(ctx, key)
}

// actor is one process.
type actor struct {
	steps *stepper
	err   error
	done  bool
}

func start(store storage.Store, f func(storage.Store) error) *actor {
	a := &actor{steps: newStepper(store)}
	go func() {
		a.err = f(a.steps)
		close(a.steps.ready)
	}()
	a.done = !<-a.steps.ready
	return a
}

// step lets the actor take one step, and reports whether there was one.
func (a *actor) step() bool {
	if a.done {
		return false
	}
	a.steps.goOn <- struct{}{}
	a.done = !<-a.steps.ready
	return true
}

func (a *actor) finish() {
	for a.step() {
	}
}

// stepsOf counts the steps of a process that runs alone.
func stepsOf(store storage.Store, f func(storage.Store) error) int {
	a, n := start(store, f), 0
	for a.step() {
		n++
	}
	return n
}

// orders yields ways of putting m steps of one between n steps of the other: at
// which step of the other each of them comes. They are drawn from all; a third
// of them in one or two runs, since most faults need no more.
func orders(n, m, count int) iter.Seq[[]int] {
	return func(yield func([]int) bool) {
		rnd := rand.New(rand.NewPCG(uint64(n), uint64(m)))
		for i := range count {
			at := make([]int, m)
			for k := range at {
				at[k] = rnd.IntN(n + 1)
			}
			slices.Sort(at)
			if i%3 == 0 {
				first, second, cut := at[0], at[m-1], rnd.IntN(m+1)
				for k := range at {
					at[k] = second
					if k < cut {
						at[k] = first
					}
				}
			}
			if !yield(at) {
				return
			}
		}
	}
}

// together runs two processes, the second one's steps at the places given.
func together(store storage.Store, one, two func(storage.Store) error, at []int) (errOne, errTwo error) {
	a, b := start(store, one), start(store, two)
	taken := 0
	for _, p := range at {
		for ; taken < p && a.step(); taken++ {
		}
		b.step()
	}
	// Whoever still has steps, for it saw something else, takes them now.
	b.finish()
	a.finish()
	return a.err, b.err
}

func TestAnExpiryAndAnotherProcessInManyOrders(t *testing.T) {
	count := 25
	switch {
	case os.Getenv("PGTENDER_SOAK") != "":
		count = 10000
	case testing.Short():
		count = 1
	}
	id := repotest.ID
	prepare := func(t *testing.T, condemned bool) (*shop, *mem.Store) {
		base := mem.New()
		s := newShop(base)
		s.backup(t, id(1), 0)
		s.backup(t, id(2), id(1), 3)
		s.backup(t, id(3), 0)
		if err := s.wal(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		if condemned {
			mustExpire(t, s, atOnce(1))
		}
		s.change(5, 99)
		return s, base
	}
	// What the other one does; begun is set once nothing may keep it any more
	// from what it uses.
	others := map[string]func(ctx context.Context, s *shop, begun *bool) error{
		"an incremental backup on a backup that goes": func(ctx context.Context, s *shop, begun *bool) error {
			copy(s.pages, s.want[id(2)])
			s.change(5, 99)
			return s.take(ctx, id(9), id(2), []uint32{5}, func() { *begun = true })
		},
		"a full backup": func(ctx context.Context, s *shop, begun *bool) error {
			return s.take(ctx, id(9), 0, nil, func() { *begun = true })
		},
		"a restore of a backup that goes": func(ctx context.Context, s *shop, begun *bool) error {
			m := repo.Reader{ID: id(9), Backup: id(2), Started: id(9).Time()}
			return s.r.Heartbeat(ctx, m, repo.Beat{}, func(ctx context.Context) error {
				manifest, err := s.r.OpenManifest(ctx, id(2))
				if err != nil {
					return err
				}
				*begun = true
				got, err := s.fetch(ctx, manifest)
				if err == nil && !bytes.Equal(got, s.want[id(2)]) {
					err = errors.New("it restored something else")
				}
				return err
			})
		},
		"a pin of a backup that goes": func(ctx context.Context, s *shop, begun *bool) error {
			err := backup.SetPin(ctx, s.r, id(2), backup.Pin{})
			*begun = err == nil
			return err
		},
		"another expiry": func(ctx context.Context, s *shop, begun *bool) error {
			_, err := s.expire(ctx, atOnce(1))
			return err
		},
	}
	for _, paused := range []bool{false, true} {
		policy := atOnce(1)
		if paused {
			// Every marker is taken for dead: a process may be paused at any
			// point for as long as it takes, and go on afterwards.
			policy.MarkerGrace = -1
		}
		for _, condemned := range []bool{false, true} {
			for name, other := range others {
				t.Run(fmt.Sprintf("%s, condemned before %v, paused %v", name, condemned, paused), func(t *testing.T) {
					t.Parallel()
					ctx := t.Context()
					s, base := prepare(t, condemned)
					expire := func(st storage.Store) error {
						_, err := s.on(st).expire(ctx, policy)
						if err == nil && !condemned {
							_, err = s.on(st).expire(ctx, policy)
						}
						return err
					}
					var begun bool
					run := func(st storage.Store) error {
						c := s.on(st)
						c.pages = bytes.Clone(s.pages)
						return other(ctx, c, &begun)
					}
					n, m := stepsOf(duplicate(t, base), expire), stepsOf(duplicate(t, base), run)
					for at := range orders(n, m, count) {
						begun = false
						store := duplicate(t, base)
						xerr, err := together(store, expire, run, at)
						if xerr != nil && !errors.Is(xerr, storage.ErrNotExist) {
							t.Fatalf("%v: expire: %v", at, xerr)
						}
						if err != nil && begun && !paused {
							t.Fatalf("%v: it had begun, and lost: %v", at, err)
						}
						after := s.on(store)
						list, lerr := after.listed(ctx)
						for range 2 {
							if lerr != nil {
								t.Fatalf("%v: %v", at, lerr)
							}
							if _, xerr := after.expire(ctx, atOnce(2)); xerr != nil {
								t.Fatalf("%v: a later expiry: %v", at, xerr)
							}
							list, lerr = after.listed(ctx)
						}
						if strings.HasPrefix(name, "a pin") && begun && !slices.Contains(list, id(2)) {
							t.Fatalf("%v: it was pinned, and is gone: %v", at, list)
						}
						if err == nil && strings.Contains(name, "backup on") && !slices.Contains(list, id(9)) {
							t.Fatalf("%v: it was committed, and is gone: %v", at, list)
						}
					}
					t.Logf("%d and %d steps", n, m)
				})
			}
		}
	}
}
