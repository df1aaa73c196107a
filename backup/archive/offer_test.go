package archive_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/archivetest"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/meter"
	"github.com/pgtender/pgtender/internal/pgtest"
)

func TestDecideOffer(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	standby := archive.OfferFacts{Now: now, Written: now, Grace: 5 * time.Second, Answer: archive.AnswerAbsent, Standby: true, Running: true}
	for _, c := range []struct {
		name   string
		change func(*archive.OfferFacts)
		want   time.Duration
		why    string
	}{
		{"just written", func(*archive.OfferFacts) {}, 5 * time.Second, "most likely"},
		{"written a while ago", func(f *archive.OfferFacts) { f.Written = now.Add(-3 * time.Second) }, 2 * time.Second, "most likely"},
		{"its grace is over", func(f *archive.OfferFacts) { f.Written = now.Add(-5 * time.Second) }, 0, "has not archived it within 5s"},
		{"a backlog", func(f *archive.OfferFacts) { f.Written = now.Add(-time.Hour) }, 0, "has not archived it within 5s"},
		{"written in the future", func(f *archive.OfferFacts) { f.Written = now.Add(time.Hour) }, 5 * time.Second, "most likely"},
		{"no grace", func(f *archive.OfferFacts) { f.Grace = 0 }, 0, "has not archived it within 0s"},
		{"archived", func(f *archive.OfferFacts) { f.Answer = archive.AnswerEqual }, 0, "it is archived"},
		{"archived otherwise, or not to be asked", func(f *archive.OfferFacts) { f.Answer = archive.AnswerOther }, 0, "must be looked at"},
		{"promoted", func(f *archive.OfferFacts) { f.Standby = false }, 0, "no standby"},
		{"stopped", func(f *archive.OfferFacts) { f.Running = false }, 0, "stopped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := standby
			c.change(&f)
			if d := archive.DecideOffer(f); d.Wait != c.want || !strings.Contains(d.Why, c.why) {
				t.Errorf("%+v, want %s because of %q", d, c.want, c.why)
			}
		})
	}
}

const (
	pidFile  = "4711\n/data\n1700000000\n5432\n/tmp\n*\n  1 2\nready   \n"
	stopping = "4711\n/data\n1700000000\n5432\n/tmp\n*\n  1 2\nstopping\n"
)

// TestAStandbyLeavesASegmentToItsUpstream: for a moment, as long as there may be
// one that archives it.
func TestAStandbyLeavesASegmentToItsUpstream(t *testing.T) {
	type standby struct {
		*testing.T
		sound      *repo.Repo // as the upstream sees it
		data, path string     // data directory and segment
		elsewhere  string     // the upstream's copy
	}
	after := func(d time.Duration, do func(s *standby)) func(*standby) {
		return func(s *standby) { time.AfterFunc(d, func() { do(s) }) }
	}
	aged := func(d time.Duration) func(*standby) {
		return func(s *standby) {
			if err := os.Chtimes(s.path, time.Time{}, time.Now().Add(-d)); err != nil {
				s.Fatal(err)
			}
		}
	}
	archived := func(s *standby) { push(s, s.sound, s.elsewhere) }
	for _, c := range []struct {
		name    string
		happens func(*standby)
		within  [2]time.Duration
		want    archive.Outcome
		gets    int64
	}{
		{"the upstream has archived it", archived, [2]time.Duration{}, archive.AlreadyArchived, 1},
		{"the upstream archives it", after(2500*time.Millisecond, archived), [2]time.Duration{2500 * time.Millisecond, 3500 * time.Millisecond}, archive.AlreadyArchived, 4},
		{"the upstream is gone", func(*standby) {}, [2]time.Duration{5 * time.Second, 5 * time.Second}, archive.Stored, 6},
		{"some of its time is over", aged(3 * time.Second), [2]time.Duration{2 * time.Second, 2 * time.Second}, archive.Stored, 3},
		{"a backlog", aged(time.Minute), [2]time.Duration{}, archive.Stored, 1},
		{"the clock was put back", aged(-time.Hour), [2]time.Duration{5 * time.Second, 5 * time.Second}, archive.Stored, 6},
		{"a promotion", after(1500*time.Millisecond, func(s *standby) { os.Remove(filepath.Join(s.data, "standby.signal")) }), [2]time.Duration{1500 * time.Millisecond, 2500 * time.Millisecond}, archive.Stored, 3},
		{"a shutdown", after(1500*time.Millisecond, func(s *standby) { save(s, filepath.Join(s.data, "postmaster.pid"), []byte(stopping)) }), [2]time.Duration{1500 * time.Millisecond, 2500 * time.Millisecond}, archive.Stored, 3},
		{"the server is stopped, and somebody else runs archive_command", func(s *standby) { os.Remove(filepath.Join(s.data, "postmaster.pid")) }, [2]time.Duration{}, archive.Stored, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sound, store := repotest.New(t)
				b := filled(1, 4, 4)
				s := &standby{T: t, sound: sound, data: t.TempDir(), elsewhere: b.save(t, t.TempDir(), 4, "")}
				s.path = b.save(t, mkdir(t, s.data, "pg_wal"), 4, "")
				save(t, filepath.Join(s.data, "standby.signal"), nil)
				save(t, filepath.Join(s.data, "postmaster.pid"), []byte(pidFile))
				aged(0)(s)
				c.happens(s)
				count := meter.New(store)
				begun := time.Now()
				result, err := archive.Push(t.Context(), repo.Open(count, repotest.Cluster, repo.Options{}),
					archive.PushOptions{Path: s.path, Grace: archive.StandbyGrace})
				took := time.Since(begun)
				if err != nil || result.Outcome != c.want || took < c.within[0] || took > c.within[1] {
					t.Errorf("after %s (want %v): %q, %v", took, c.within, result.Outcome, err)
				}
				got := count.Counts()
				if uploads := got.Put; uploads != map[bool]int64{true: 1}[c.want == archive.Stored] || got.Get != c.gets {
					t.Errorf("%d uploads and %d questions, want %d questions", uploads, got.Get, c.gets)
				}
			})
		})
	}
}

// TestWhatIsNotWaitedFor: files that come but once, and what conflicts.
func TestWhatIsNotWaitedFor(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, r *repo.Repo, walDir string) string // gives the file
		fails   bool
	}{
		{"a partial segment", func(t *testing.T, _ *repo.Repo, walDir string) string {
			return filled(1, 4, 4).save(t, walDir, 4, ".partial")
		}, false},
		{"a history, and what is backfilled for it", func(t *testing.T, _ *repo.Repo, walDir string) string {
			b := filled(1, 4, 5)
			b.save(t, walDir, 4, "")
			b.save(t, walDir, 5, "")
			path := filepath.Join(walDir, "00000002.history")
			save(t, path, []byte("1\t0/500100\tno reason\n"))
			return path
		}, false},
		{"a segment that differs from the archived one", func(t *testing.T, r *repo.Repo, walDir string) string {
			b := filled(1, 4, 5)
			push(t, r, b.save(t, t.TempDir(), 4, ""))
			b.segments[4][9000] ^= 1
			return b.save(t, walDir, 4, "")
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, _ := repotest.New(t)
				data := t.TempDir()
				walDir := mkdir(t, data, "pg_wal")
				path := c.prepare(t, r, walDir)
				save(t, filepath.Join(data, "standby.signal"), nil)
				save(t, filepath.Join(data, "postmaster.pid"), []byte(pidFile))
				entries, err := os.ReadDir(walDir)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					if err := os.Chtimes(filepath.Join(walDir, e.Name()), time.Time{}, time.Now()); err != nil {
						t.Fatal(err)
					}
				}
				begun := time.Now()
				result, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path, Grace: archive.StandbyGrace})
				if took := time.Since(begun); took > 0 || (err != nil) != c.fails {
					t.Errorf("after %s: %+v, %v", took, result, err)
				}
			})
		})
	}
}

// TestASignalEndsTheWait: the push fails, and leaves nothing behind.
func TestASignalEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := repotest.New(t)
		data := t.TempDir()
		path := filled(1, 4, 4).save(t, mkdir(t, data, "pg_wal"), 4, "")
		save(t, filepath.Join(data, "standby.signal"), nil)
		save(t, filepath.Join(data, "postmaster.pid"), []byte(pidFile))
		if err := os.Chtimes(path, time.Time{}, time.Now()); err != nil {
			t.Fatal(err)
		}
		signal := errors.New("terminated")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(1500*time.Millisecond, func() { cancel(signal) })
		begun := time.Now()
		_, err := archive.Push(ctx, r, archive.PushOptions{Path: path, Grace: archive.StandbyGrace})
		if took := time.Since(begun); !errors.Is(err, signal) || took != 1500*time.Millisecond {
			t.Errorf("after %s: %v", took, err)
		}
		if got := keys(t, store); len(got) > 0 {
			t.Errorf("stored %v", got)
		}
	})
}

// yields is a standby's archive_command: it takes a file, where to note what
// became of it, and a file that holds the grace.
func yields(ctx context.Context, r *repo.Repo, args []string) error {
	text, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	grace, err := time.ParseDuration(string(text))
	if err != nil {
		return err
	}
	result, err := archive.Push(ctx, r, archive.PushOptions{Path: args[0], Grace: grace})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[1], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(result.Name + " " + string(result.Outcome) + "\n")
	return errors.Join(err, f.Close())
}

// TestAServerThatArchivesAsAStandby: with archive_mode=always it sends nothing
// while the primary archives, and what is missing soon after that cannot. A
// promotion and a shutdown end the wait.
func TestAServerThatArchivesAsAStandby(t *testing.T) {
	store, notes := archivetest.Dir(t), pgtest.Dir(t)
	outcomes, grace, blocked := filepath.Join(notes, "outcomes"), filepath.Join(notes, "grace"), filepath.Join(notes, "blocked")
	waits := func(d string) {
		t.Helper()
		save(t, grace, []byte(d))
		pgtest.Own(t, grace)
	}
	primary := pgtest.New(t, pgtest.Options{WALSegSize: 1, Config: map[string]string{"wal_keep_size": "200MB"}})
	run := archivetest.Install(t, store, primary.Value(t, systemID))
	primary.Configure(t, map[string]string{"archive_mode": "on", "archive_command": "test ! -e " + blocked + " && " + run + "push %p"})
	primary.Restart(t)
	waits("10m") // more than any primary takes: what the standby uploads meanwhile is a fault
	standby := pgtest.StandbyOf(t, primary, pgtest.Options{Config: map[string]string{
		"archive_mode": "always", "archive_command": run + "yield %p " + outcomes + " " + grace,
	}})
	segment := func() string {
		t.Helper()
		primary.Exec(t, "SELECT pg_logical_emit_message(false, 'some', repeat('work', 1000))")
		name := primary.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
		primary.Exec(t, "SELECT pg_logical_emit_message(false, 'more', 'work')") // streamed, so that the segment is closed
		return name
	}
	offered := func() string {
		t.Helper()
		name := segment()
		standby.WaitFor(t, "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name = '"+name+".ready'", "1")
		return name
	}
	became := func(name string) string {
		t.Helper()
		content, err := os.ReadFile(outcomes)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			if its, outcome, _ := strings.Cut(strings.TrimSpace(line), " "); its == name {
				return outcome
			}
		}
		return ""
	}
	archived := func(name string) {
		t.Helper()
		standby.WaitFor(t, "SELECT last_archived_wal >= '"+name+"' FROM pg_stat_archiver", "t")
	}
	for range 3 {
		name := segment()
		archived(name)
		if got := became(name); got != string(archive.AlreadyArchived) {
			t.Errorf("%s, which the primary archives: %q", name, got)
		}
	}

	save(t, blocked, nil)
	waits("1s")
	name := segment()
	archived(name)
	if got := became(name); got != string(archive.Stored) {
		t.Errorf("%s, which the primary cannot archive: %q", name, got)
	}

	waits("10m")
	name = offered()
	standby.Stop(t, pgtest.Fast)
	if got := became(name); got != string(archive.Stored) {
		t.Errorf("%s, at a shutdown: %q", name, got)
	}

	standby.Start(t)
	name = offered()
	primary.Crash(t)
	standby.Promote(t)
	archived(name)
	if got := became(name); got != string(archive.Stored) {
		t.Errorf("%s, at a promotion: %q", name, got)
	}
}
