package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/pg"
)

func mustVerify(t *testing.T, s *shop, o backup.VerifyOptions) backup.Verification {
	t.Helper()
	o.Repo = s.r
	v, err := backup.Verify(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// everything gives all faults in one text.
func everything(v backup.Verification) string {
	text := strings.Join(v.Faults, "\n")
	for _, b := range v.Backups {
		for _, f := range b.Faults {
			text += "\n" + b.ID.String() + ": " + f
		}
	}
	return text
}

// verified is a shop with three backups, the last two of which lean on others.
func verified(t *testing.T) (*shop, *mem.Store) {
	base := mem.New()
	s := newShop(base)
	s.dir = t.TempDir()
	s.backup(t, repotest.ID(1), 0)
	s.backup(t, repotest.ID(2), repotest.ID(1), 3, 4)
	s.backup(t, repotest.ID(3), repotest.ID(2), 4, 9)
	return s, base
}

func TestASoundRepositoryIsVerified(t *testing.T) {
	s, _ := verified(t)
	for _, deep := range []bool{false, true} {
		v := mustVerify(t, s, backup.VerifyOptions{Deep: deep, By: "test"})
		if !v.OK || len(v.Backups) != 3 || v.Packs == 0 || v.WAL == 0 || (v.Bytes > 0) != deep {
			t.Errorf("deep %v: %+v\n%s", deep, v, everything(v))
		}
	}
	if v := mustVerify(t, s, backup.VerifyOptions{Backups: []repo.BackupID{repotest.ID(2)}}); !v.OK || len(v.Backups) != 1 {
		t.Errorf("one backup: %+v", v)
	}
	marks, err := backup.ReadMarks(t.Context(), s.r)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		m := marks[repotest.ID(n)].Verified
		if !m[backup.DepthQuick].OK || !m[backup.DepthDeep].OK || m[backup.DepthDeep].By != "test" {
			t.Errorf("backup %d: %+v", n, m)
		}
	}
	// One result a backup and depth is kept.
	events, err := s.r.Events(t.Context())
	if err != nil || len(events) != 6 {
		t.Errorf("%d events (%v)", len(events), err)
	}
	if _, err := backup.Verify(t.Context(), backup.VerifyOptions{Repo: s.r, Backups: []repo.BackupID{repotest.ID(9)}}); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a backup that is not there: %v", err)
	}
}

func TestNoBackupIsNoSoundRepository(t *testing.T) {
	if v := mustVerify(t, newShop(mem.New()), backup.VerifyOptions{}); v.OK {
		t.Error("an empty repository is verified")
	}
}

// put replaces an object's bytes.
func put(t *testing.T, s storage.Store, key string, content []byte) {
	t.Helper()
	if err := storage.PutBytes(t.Context(), s, key, content, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Any bit of any object that a backup needs.
func TestAFlippedBitIsNamed(t *testing.T) {
	s, base := verified(t)
	var keys []string
	contents := make(map[string][]byte)
	for o, err := range base.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := storage.ReadAll(t.Context(), base, o.Key, o.Size)
		if err != nil {
			t.Fatal(err)
		}
		keys, contents[o.Key] = append(keys, o.Key), b
	}
	rnd := rand.New(rand.NewPCG(3, 1))
	flips := 12
	if testing.Short() {
		flips = 1
	}
	for _, key := range keys {
		whole := contents[key]
		for n := range flips {
			bit := rnd.IntN(len(whole) * 8)
			if n == 0 {
				bit = 0
			}
			flipped := bytes.Clone(whole)
			flipped[bit/8] ^= 1 << (bit % 8)
			put(t, base, key, flipped)
			v := mustVerify(t, s, backup.VerifyOptions{Deep: true})
			name := strings.TrimPrefix(key, repotest.Cluster.String()+"/")
			short := name[strings.LastIndex(name, "/")+1:]
			if text := everything(v); v.OK || !strings.Contains(text, name) && !strings.Contains(text, short) {
				t.Errorf("bit %d of %s: found %v:\n%s", bit, name, !v.OK, text)
			}
		}
		put(t, base, key, whole)
	}
	// A quick verification sees what is missing or has another length.
	for _, key := range keys {
		for _, content := range [][]byte{nil, contents[key][:len(contents[key])-1]} {
			if content == nil {
				if err := base.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			} else {
				put(t, base, key, content)
			}
			if v := mustVerify(t, s, backup.VerifyOptions{}); v.OK && !strings.Contains(key, "/manifest/") && !(strings.Contains(key, "/wal/") && content != nil) {
				t.Errorf("%s with %d bytes of %d is not missed", key, len(content), len(contents[key]))
			}
		}
		put(t, base, key, contents[key])
	}
}

func TestWALOfATimelineWithoutItsHistoryIsNamed(t *testing.T) {
	s, _ := verified(t)
	ctx := t.Context()
	two := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: shopSegment.Start(s.next), Reason: "promoted"}}}
	s.dir = "" // no WAL that would say where it comes from
	if err := s.segment(ctx, two, s.next); err != nil {
		t.Fatal(err)
	}
	i := repo.IncarnationOf(two)
	if v := mustVerify(t, s, backup.VerifyOptions{}); v.OK || !strings.Contains(everything(v), i.String()+" is archived, but not its history 00000002.history") {
		t.Errorf("found %v: %s", !v.OK, everything(v))
	}
	if _, err := s.r.PutHistory(ctx, 2, two.Encode()); err != nil {
		t.Fatal(err)
	}
	if v := mustVerify(t, s, backup.VerifyOptions{}); strings.Contains(everything(v), "but not its history") {
		t.Errorf("found %s", everything(v))
	}
}

// What is said beside backups and WAL: with one of these damaged nothing is
// archived any more, or nothing expires, so that it must not go unnoticed.
func TestADamagedOwnerOrEventIsNamed(t *testing.T) {
	s, base := verified(t)
	ctx := t.Context()
	if err := errors.Join(s.r.PutOwner(ctx, 0, repo.Owner{ID: "one", Created: time.Now()}), backup.SetPin(ctx, s.r, repotest.ID(2), backup.Pin{})); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"owner/", "event/"} {
		for o, err := range base.List(ctx, repotest.Cluster.String()+"/"+kind, "") {
			if err != nil {
				t.Fatal(err)
			}
			whole, err := storage.ReadAll(ctx, base, o.Key, o.Size)
			if err != nil {
				t.Fatal(err)
			}
			put(t, base, o.Key, whole[:len(whole)-1])
			if v := mustVerify(t, s, backup.VerifyOptions{}); v.OK || !strings.Contains(everything(v), o.Key) {
				t.Errorf("%s: found %v: %s", o.Key, !v.OK, everything(v))
			}
			put(t, base, o.Key, whole)
		}
	}
	if v := mustVerify(t, s, backup.VerifyOptions{}); !v.OK {
		t.Errorf("found %s", everything(v))
	}
}

func TestAStoreThatDoesNotAnswerIsNoFault(t *testing.T) {
	s, base := verified(t)
	down := errors.New("the network is down")
	step := int64(5)
	if testing.Short() {
		step = 20
	}
	for n, fired := int64(0), true; fired; n += step {
		var count atomic.Int64
		c := s.on(storagetest.Faulty(base, func(storagetest.Call) (bool, error) {
			if count.Add(1)-1 == n {
				return false, down
			}
			return true, nil
		}))
		v, err := backup.Verify(t.Context(), backup.VerifyOptions{Repo: c.r, Deep: true, Workers: 1})
		if fired = count.Load() > n; !fired && err != nil {
			t.Fatal(err)
		}
		// What is asked for twice may fail once.
		if text := everything(v); text != "" || err == nil && !v.OK {
			t.Fatalf("request %d fails: OK %v, error %v, faults %s", n, v.OK, err, text)
		}
	}
}

func TestADeepVerificationGoesOnWhereItWasInterrupted(t *testing.T) {
	s, _ := verified(t)
	state := filepath.Join(t.TempDir(), "state")
	packs := 0
	ctx, cancel := context.WithCancel(t.Context())
	_, err := backup.Verify(ctx, backup.VerifyOptions{Repo: s.r, Deep: true, Workers: 1, StateFile: state, Progress: func(int64, int64) {
		if packs++; packs == 4 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	// What a crash leaves of the last line does not count.
	f, err := os.OpenFile(state, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, repotest.ID(3).String()+" 1 1")
	f.Close()
	v := mustVerify(t, s, backup.VerifyOptions{Deep: true, StateFile: state})
	if !v.OK || v.Skipped != 4 || v.Skipped+int(min(v.Bytes, 1)) > v.Packs {
		t.Errorf("%+v\n%s", v, everything(v))
	}
	if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state stays: %v", err)
	}
	// A state of another cluster says nothing.
	if err := os.WriteFile(state, []byte("pgtender verify 2 other/1 "+fmt.Sprint(time.Now().Unix())+"\n"+repotest.ID(1).String()+" 1 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := mustVerify(t, s, backup.VerifyOptions{Deep: true, StateFile: state}); !v.OK || v.Skipped != 0 {
		t.Errorf("%+v", v)
	}
}

// The file's own times do not count: they are a file server's, perhaps.
func TestAStateThatIsOldOrOfTheFutureSaysNothing(t *testing.T) {
	s, _ := verified(t)
	state := filepath.Join(t.TempDir(), "state")
	for name, test := range map[string]struct {
		begun time.Duration // from now
		want  int
	}{"of today": {-time.Hour, 4}, "of last week": {-8 * 24 * time.Hour, 0}, "of tomorrow": {24 * time.Hour, 0}} {
		packs := 0
		ctx, cancel := context.WithCancel(t.Context())
		_, err := backup.Verify(ctx, backup.VerifyOptions{Repo: s.r, Deep: true, Workers: 1, StateFile: state, Progress: func(int64, int64) {
			if packs++; packs == 4 {
				cancel()
			}
		}})
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		content, err := os.ReadFile(state)
		if err != nil {
			t.Fatal(err)
		}
		head, rest, _ := strings.Cut(string(content), "\n")
		head = head[:strings.LastIndex(head, " ")+1] + fmt.Sprint(time.Now().Add(test.begun).Unix())
		if err := os.WriteFile(state, []byte(head+"\n"+rest), 0o600); err != nil {
			t.Fatal(err)
		}
		if v := mustVerify(t, s, backup.VerifyOptions{Deep: true, StateFile: state}); !v.OK || v.Skipped != test.want {
			t.Errorf("%s: %d packs were passed over, want %d", name, v.Skipped, test.want)
		}
	}
}

// TestAStateOfOtherBackupsSaysNothing: of a pack, a verification of one backup
// checks only what that one leans on.
func TestAStateOfOtherBackupsSaysNothing(t *testing.T) {
	s, _ := verified(t)
	state := filepath.Join(t.TempDir(), "state")
	packs := 0
	ctx, cancel := context.WithCancel(t.Context())
	_, err := backup.Verify(ctx, backup.VerifyOptions{Repo: s.r, Deep: true, Workers: 1, StateFile: state, Backups: []repo.BackupID{repotest.ID(2)}, Progress: func(int64, int64) {
		if packs++; packs == 4 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if v := mustVerify(t, s, backup.VerifyOptions{Deep: true, StateFile: state}); !v.OK || v.Skipped != 0 {
		t.Errorf("%d packs were passed over: %+v", v.Skipped, v)
	}
}

func FuzzVerifyState(f *testing.F) {
	f.Add([]byte("pgtender verify 2 demo/7123456789012345678 1767225600\n20260101T000001Z-000001 1 4096\n20260101T000001Z-000001 2 40"))
	f.Fuzz(func(t *testing.T, content []byte) {
		packs, _, end := backup.ParseVerifyState(content, repotest.Cluster.String())
		if int(end) > len(content) || end < 0 {
			t.Fatalf("whole lines end at %d of %d", end, len(content))
		}
		again, _, same := backup.ParseVerifyState(content[:end], repotest.Cluster.String())
		if len(again) != len(packs) || same != end {
			t.Fatalf("%d packs up to %d, then %d up to %d", len(packs), end, len(again), same)
		}
	})
}
