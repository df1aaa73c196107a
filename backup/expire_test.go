package backup_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/pg"
)

func TestExpiryGoesInTwoRunsAndKeepsWhatOthersLeanOn(t *testing.T) {
	r, store := repotest.New(t)
	_ = r
	s := newShop(store)
	id := repotest.ID
	s.backup(t, id(1), 0)
	s.backup(t, id(2), id(1), 3, 4)
	s.backup(t, id(3), id(2), 5)
	s.backup(t, id(4), id(3), 3)

	x := mustExpire(t, s, atOnce(2))
	if x.Condemned == 0 || x.Removed != 0 {
		t.Errorf("the first run condemned %d and removed %d objects", x.Condemned, x.Removed)
	}
	list, err := s.listed(t.Context())
	if err != nil || !slices.Equal(list, []repo.BackupID{id(3), id(4)}) {
		t.Fatalf("good after the first run: %v (%v)", list, err)
	}
	mustExpire(t, s, atOnce(2))
	if list, err = s.listed(t.Context()); err != nil || len(list) != 2 {
		t.Fatalf("good after the second run: %v (%v)", list, err)
	}
	all, err := backup.List(t.Context(), s.r)
	if err != nil || len(all) != 2 {
		t.Errorf("listed after the second run: %d (%v)", len(all), err)
	}
	// Of backup 1 most pages still live; of 2 nothing but page 4 does.
	packs, err := s.r.StoredPacks(t.Context())
	if err != nil || len(packs[id(1)]) == 0 || len(packs[id(2)]) == 0 {
		t.Errorf("packs that others lean on: %v (%v)", packs, err)
	}
	// The WAL that only they needed goes a grace period later. Then there is
	// nothing to do any more.
	if x := mustExpire(t, s, atOnce(2)); x.Removed != 4 {
		t.Errorf("the third run removed %d objects, want four segments", x.Removed)
	}
	if x := mustExpire(t, s, atOnce(2)); x.Removed+x.Condemned != 0 {
		t.Errorf("a fourth run condemned %d and removed %d: %+v", x.Condemned, x.Removed, x.Items)
	}
	// With a full backup nothing leans on the old ones any more.
	s.backup(t, id(5), 0)
	for range 3 {
		mustExpire(t, s, atOnce(1))
	}
	if packs, err = s.r.StoredPacks(t.Context()); err != nil || len(packs) != 1 {
		t.Errorf("packs at the end: %v (%v)", packs, err)
	}
	onlyNeeded(t, s)
}

// ahead is a store whose clock is ahead of this host's.
type ahead struct {
	storage.Store
	by time.Duration
}

func (a ahead) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for o, err := range a.Store.List(ctx, prefix, after) {
			o.Modified = o.Modified.Add(a.by)
			if !yield(o, err) {
				return
			}
		}
	}
}

func TestAPlanGoesByTheStoresClockAsTheActDoes(t *testing.T) {
	_, store := repotest.New(t)
	s := newShop(ahead{store, 48 * time.Hour})
	s.backup(t, repotest.ID(1), 0)
	s.backup(t, repotest.ID(2), 0)
	p := backup.Policy{KeepFor: time.Nanosecond, Grace: time.Hour}
	plan, err := backup.PlanExpiry(t.Context(), backup.ExpireOptions{Repo: s.r, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := plan.Count(backup.Condemn)
	if x := mustExpire(t, s, p); want == 0 || x.Condemned != want {
		t.Errorf("%d objects are to be condemned, %d were: %v", want, x.Condemned, decided(plan))
	}
}

// Of a pin that was set and one that was taken off the later one counts, on
// whatever host that was.
func TestAPinCountsThoughAnotherHostsClockIsAhead(t *testing.T) {
	r, store := repotest.New(t)
	id := repotest.ID(1)
	newShop(store).backup(t, id, 0)
	tomorrow := time.Now().Add(24 * time.Hour)
	for _, e := range []repo.Event{
		{Kind: "pin", Subject: id.String(), Time: tomorrow, Data: map[string]string{"removed": "true"}},
		{Kind: "annotation", Subject: id.String(), Time: tomorrow, Data: map[string]string{"ticket": "1"}},
	} {
		if _, err := r.PutEvent(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	pin := func() *backup.Pin {
		t.Helper()
		m, err := backup.ReadMarks(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return m[id].Pin
	}
	if err := backup.SetPin(t.Context(), r, id, backup.Pin{Reason: "audit"}); err != nil || pin() == nil {
		t.Errorf("pinned, but the pin is %v (%v)", pin(), err)
	}
	if err := backup.RemovePin(t.Context(), r, id, "somebody"); err != nil || pin() != nil {
		t.Errorf("taken off, but the pin is %v (%v)", pin(), err)
	}
	err := backup.Annotate(t.Context(), r, id, map[string]string{"ticket": "2"})
	if m, _ := backup.ReadMarks(t.Context(), r); err != nil || m[id].Annotations["ticket"] != "2" {
		t.Errorf("noted %v (%v)", m[id].Annotations, err)
	}
}

// onlyNeeded fails if there is anything that nobody needs.
func onlyNeeded(t *testing.T, s *shop) {
	t.Helper()
	ctx := t.Context()
	needed := make(map[repo.PackRef]bool)
	list, err := backup.List(ctx, s.r)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		open := s.r.OpenManifest
		if l.Status == backup.Pending {
			open = s.r.OpenPending
		}
		m, err := open(ctx, l.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range m.Packs {
			needed[p.PackRef] = true
		}
	}
	packs, err := s.r.StoredPacks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range packs {
		for _, p := range of {
			if !needed[p.PackRef] {
				t.Errorf("pack %s is still there, and nobody leans on it", p.PackRef)
			}
		}
	}
}

// After any sequence of backups, expiries, deletions, pins and kills every
// listed backup restores, and nothing that is not needed stays for ever.
func TestEveryListedBackupRestoresAfterAnySequence(t *testing.T) {
	seeds := 8
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { sequence(t, uint64(seed)) })
	}
}

func sequence(t *testing.T, seed uint64) {
	_, store := repotest.New(t)
	s := newShop(store)
	ctx := t.Context()
	rnd := rand.New(rand.NewPCG(seed, 7))
	s.backup(t, repotest.ID(1), 0)
	var did []string
	for n := 2; n < 40; n++ {
		id := repotest.ID(n)
		good, err := s.listed(ctx)
		if err != nil {
			t.Fatalf("after %s: %v", strings.Join(did, ", "), err)
		}
		if len(good) == 0 {
			t.Fatalf("after %s: no backup is left", strings.Join(did, ", "))
		}
		any := good[rnd.IntN(len(good))]
		policy := backup.Policy{KeepBackups: 1 + rnd.IntN(3), Grace: -1, MarkerGrace: -1}
		if rnd.IntN(2) == 0 {
			policy.RecoveryWindow = time.Nanosecond
		}
		switch rnd.IntN(10) {
		case 0:
			did = append(did, fmt.Sprintf("full %d", n))
			s.backup(t, id, 0)
		case 1, 2, 3:
			did = append(did, fmt.Sprintf("incremental %d on %s", n, any))
			// Another image than the parent's was, so restore that first.
			copy(s.pages, s.want[any])
			s.backup(t, id, any, pagesOf(rnd)...)
		case 4:
			did = append(did, fmt.Sprintf("killed %d on %s", n, any))
			copy(s.pages, s.want[any])
			kill(t, s, store, id, any, rnd.IntN(12))
		case 5:
			did = append(did, fmt.Sprintf("pin %s", any))
			if err := backup.SetPin(ctx, s.r, any, backup.Pin{}); err != nil {
				t.Fatal(err)
			}
		case 6:
			did = append(did, fmt.Sprintf("delete %s", any))
			if err := backup.Delete(ctx, s.r, any, backup.DeleteOptions{By: "test"}); err != nil && !errors.As(err, new(*backup.KeptError)) {
				t.Fatal(err)
			}
		case 7:
			did = append(did, "unpin "+any.String())
			if err := backup.RemovePin(ctx, s.r, any, "test"); err != nil {
				t.Fatal(err)
			}
		default:
			did = append(did, fmt.Sprintf("expire to %d", policy.KeepBackups))
			mustExpire(t, s, policy)
		}
	}
	list, err := s.listed(ctx)
	if err != nil {
		t.Fatalf("after %s: %v", strings.Join(did, ", "), err)
	}
	for _, id := range list {
		if err := backup.RemovePin(ctx, s.r, id, "test"); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		mustExpire(t, s, backup.Policy{KeepBackups: 1, Grace: -1, MarkerGrace: -1})
	}
	onlyNeeded(t, s)
	if list, err = s.listed(ctx); err != nil || len(list) != 1 {
		t.Errorf("after %s: %v (%v)", strings.Join(did, ", "), list, err)
	}
	// What was removed of the WAL is no hole.
	v, err := archive.ReadStatus(ctx, s.r, archive.LineageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tl := range v.Timelines {
		if len(tl.Holes) > 0 {
			t.Errorf("holes: %v", tl.Holes)
		}
	}
}

func pagesOf(rnd *rand.Rand) []uint32 {
	var out []uint32
	for p := range uint32(shopPages) {
		if rnd.IntN(6) == 0 {
			out = append(out, p)
		}
	}
	if out == nil {
		out = []uint32{0}
	}
	return out
}

// kill takes a backup whose process dies before one of its puts.
func kill(t *testing.T, s *shop, store storage.Store, id, parent repo.BackupID, at int) {
	t.Helper()
	if err := s.wal(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	var puts atomic.Int64
	faulty := storagetest.Faulty(store, func(c storagetest.Call) (bool, error) {
		if c.Verb == storagetest.Put || c.Verb == storagetest.Delete {
			puts.Add(1)
		}
		if puts.Load() > int64(at) {
			return false, errors.New("killed")
		}
		return true, nil
	})
	s.change(0, int(id&0xffffff))
	killed := s.on(faulty)
	if err := killed.take(t.Context(), id, parent, []uint32{0}, func() {}); err == nil {
		s.want[id] = slices.Clone(s.pages)
	}
	// If it got as far as pending, or committed without knowing, it holds this.
	s.want[id] = slices.Clone(s.pages)
}

// Whatever becomes of any single request of an expiry, or from it on: every
// listed backup restores, and the next expiries finish the work.
func TestAnExpiryMayFailOrBeKilledAtEachRequest(t *testing.T) {
	base := mem.New()
	s := newShop(base)
	id := repotest.ID
	s.backup(t, id(1), 0)
	s.backup(t, id(2), id(1), 3, 4)
	kill(t, s, base, id(3), id(2), 4)
	s.backup(t, id(4), 0)
	s.backup(t, id(5), id(4), 7)
	mustExpire(t, s, backup.Policy{KeepBackups: 2, Grace: -1, MarkerGrace: -1})
	for _, f := range []struct {
		name           string
		onwards, apply bool
	}{{"failed", false, false}, {"failed but applied", false, true}, {"killed before", true, false}, {"killed behind", true, true}} {
		t.Run(f.name, func(t *testing.T) {
			step := int64(1)
			if testing.Short() {
				step = 9
			}
			for n, fired := int64(0), true; fired; n += step {
				inner := duplicate(t, base)
				var count atomic.Int64
				down := errors.New("the network is down")
				c := s.on(storagetest.Faulty(inner, func(storagetest.Call) (bool, error) {
					switch at := count.Add(1) - 1; {
					case at == n:
						return f.apply, down
					case at > n && f.onwards:
						return false, down
					}
					return true, nil
				}))
				policy := backup.Policy{KeepBackups: 2, Grace: -1, MarkerGrace: -1}
				_, err := c.expire(t.Context(), policy)
				if fired = count.Load() > n; !fired && err != nil {
					t.Fatal(err)
				}
				after := s.on(inner)
				for range 3 {
					list, err := after.listed(t.Context())
					if err != nil || len(list) != 2 {
						t.Fatalf("request %d: %v (%v)", n, list, err)
					}
					mustExpire(t, after, policy)
				}
				onlyNeeded(t, after)
			}
		})
	}
}

// duplicate gives a store with the same objects.
func duplicate(t testing.TB, from storage.Store) *mem.Store {
	t.Helper()
	to := mem.New()
	for o, err := range from.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := storage.ReadAll(t.Context(), from, o.Key, o.Size)
		if err == nil {
			err = storage.PutBytes(t.Context(), to, o.Key, b, storage.PutOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func TestAFailedListingRemovesNothing(t *testing.T) {
	base := mem.New()
	s := newShop(base)
	s.backup(t, repotest.ID(1), 0)
	s.backup(t, repotest.ID(2), 0)
	mustExpire(t, s, atOnce(1))
	for _, prefix := range []string{"/pack/", "/running/", "/reader/", "/pending/", "/manifest/", "/event/", "/wal/", "/history/"} {
		c := s.on(storagetest.Faulty(base, func(c storagetest.Call) (bool, error) {
			switch {
			case c.Verb == storagetest.Delete && !strings.HasSuffix(c.Key, "-clock"):
				t.Errorf("%s is deleted though the listing of %s failed", c.Key, prefix)
			case c.Verb == storagetest.List && strings.HasSuffix(c.Key, prefix):
				return true, errors.New("the listing broke off")
			}
			return true, nil
		}))
		if _, err := c.expire(t.Context(), atOnce(1)); err == nil {
			t.Errorf("%s: an expiry whose listing broke off succeeds", prefix)
		}
	}
}

// What is removed is gone, so what the repository says of itself does not do
// where a DCS ought to say which history its leader is on.
func TestNothingGoesWhileTheLeadersHistoryIsNotKnown(t *testing.T) {
	_, store := repotest.New(t)
	s := newShop(store)
	id := repotest.ID
	s.backup(t, id(1), 0)
	s.backup(t, id(2), 0)
	removes := func(l archive.LineageOptions) (some bool) {
		t.Helper()
		stock, err := backup.ReadStock(t.Context(), s.r, atOnce(1), time.Now(), l)
		if err != nil {
			t.Fatal(err)
		}
		if l.Leader != nil && stock.LineageError == nil {
			t.Error("the history in force counts as known")
		}
		for _, it := range backup.DecideExpiry(stock).Items {
			some = some || it.Action != backup.Keep
		}
		return some
	}
	if !removes(archive.LineageOptions{}) {
		t.Error("an old backup stays although nothing keeps it")
	}
	unknown := func(context.Context) (pg.History, error) { return pg.History{}, errors.New("no quorum") }
	if removes(archive.LineageOptions{Leader: unknown}) {
		t.Error("something goes although nobody knows which history is in force")
	}
}
