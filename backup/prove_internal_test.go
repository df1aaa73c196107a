package backup

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/internal/pg"
)

const testSegment = pg.SegmentSize(1 << 20)

func TestWhatIsDoneAboutMissingWAL(t *testing.T) {
	missing := pg.Segment{Timeline: 1, Number: 5}
	inside, at := testSegment.Start(5)+100, testSegment.Start(6)
	for _, c := range []struct {
		name  string
		state walState
		step  walStep
		why   string
	}{
		{"all of it is archived", walState{covered: true, primary: pg.Pos{Timeline: 1, LSN: at}}, walProved, "archived"},
		{"all of it is archived and the primary does not answer", walState{covered: true, primaryErr: errors.New("refused")}, walProved, "archived"},
		{"all of it is archived, the primary does not answer, and a timeline left before the stop", walState{covered: true, left: true, primaryErr: errors.New("refused")}, walWait, "refused"},
		{"the primary is on a later timeline that has the backup", walState{covered: true, primary: pg.Pos{Timeline: 2, LSN: at}, moved: true, led: true}, walProved, "archived"},
		{"the primary is on a later timeline of which nothing is known", walState{covered: true, primary: pg.Pos{Timeline: 2, LSN: at}, moved: true}, walWait, "timeline 2, whose history"},
		{"the primary's timeline left before the stop", walState{covered: true, primary: pg.Pos{Timeline: 2, LSN: at}, moved: true, dead: true}, walDead, "left"},
		{"the archive does not answer", walState{archErr: errors.New("no route"), late: true}, walWait, "no route"},
		{"the primary still writes to the segment", walState{primary: pg.Pos{Timeline: 1, LSN: inside}}, walSwitch, "writes"},
		{"the primary is at the segment's beginning", walState{primary: pg.Pos{Timeline: 1, LSN: testSegment.Start(5)}}, walWait, "archiver"},
		{"the primary has ended the segment", walState{primary: pg.Pos{Timeline: 1, LSN: at}}, walWait, "archiver"},
		{"the primary writes to the segment of another timeline", walState{primary: pg.Pos{Timeline: 2, LSN: inside}, moved: true, led: true}, walWait, "archiver"},
		{"the primary does not answer", walState{primaryErr: errors.New("refused")}, walWait, "refused"},
		{"the archiver is late", walState{primary: pg.Pos{Timeline: 1, LSN: at}, local: at, late: true}, walStore, "pg_wal"},
		{"the archiver has its time", walState{primaryErr: errors.New("refused"), local: at}, walWait, "archiver"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.state.size, c.state.last, c.state.missing = testSegment, 5, missing
			if step, why := c.state.next(); step != c.step || !strings.Contains(why, c.why) {
				t.Errorf("step %d because %q, want %d", step, why, c.step)
			}
		})
	}
}

// archived stores a segment that ends at the given position.
func archived(t *testing.T, r *repo.Repo, h pg.History, n pg.SegmentNumber, flags repo.WALFlags, end pg.LSN) {
	t.Helper()
	storeSegment(t, r, h, n, flags, end, r.WALKey)
}

// leaders stores a segment as a leader's that conflicts with another.
func leaders(t *testing.T, r *repo.Repo, h pg.History, n pg.SegmentNumber, flags repo.WALFlags, end pg.LSN) {
	t.Helper()
	storeSegment(t, r, h, n, flags, end, r.WALConflictKey)
}

func storeSegment(t *testing.T, r *repo.Repo, h pg.History, n pg.SegmentNumber, flags repo.WALFlags, end pg.LSN, key func(*repo.WALHeader) string) {
	t.Helper()
	header := repo.WALHeader{
		Flags: flags, SystemID: r.Cluster().SystemID, Incarnation: repo.IncarnationOf(h), Segment: n, SegmentSize: testSegment, PageMagic: 0xD116, End: end,
	}
	d, err := r.EncodeWAL(header, nil, nil, bytes.NewReader(make([]byte, testSegment)))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := r.PutWAL(t.Context(), key(&d.Header), d); err != nil {
		t.Fatal(err)
	}
}

func TestTheWALOfABackupIsProvedAlongItsHistory(t *testing.T) {
	one := pg.FirstTimeline()
	start, stop := testSegment.Start(4)+40, testSegment.Start(6)+500
	later := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: stop + 100, Reason: "promoted"}}}
	earlier := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: stop - 100, Reason: "promoted"}}}
	b := repotest.Backup(repotest.ID(1))
	b.SegmentSize, b.History = testSegment, nil
	b.Start, b.Stop = pg.Pos{Timeline: 1, LSN: start}, pg.Pos{Timeline: 1, LSN: stop}

	full := func(t *testing.T, r *repo.Repo, h pg.History, numbers ...pg.SegmentNumber) {
		for _, n := range numbers {
			archived(t, r, h, n, 0, testSegment.Start(n+1))
		}
	}
	for _, c := range []struct {
		name    string
		fill    func(*testing.T, *repo.Repo)
		covered bool
		missing string
		err     string
	}{
		{name: "an empty archive", fill: func(*testing.T, *repo.Repo) {}, missing: "000000010000000000000004"},
		{name: "all segments", fill: func(t *testing.T, r *repo.Repo) { full(t, r, one, 4, 5, 6) }, covered: true},
		{name: "a hole", fill: func(t *testing.T, r *repo.Repo) { full(t, r, one, 4, 6, 7) }, missing: "000000010000000000000005"},
		{name: "the last one is a partial file", fill: func(t *testing.T, r *repo.Repo) {
			full(t, r, one, 4, 5)
			archived(t, r, one, 6, repo.WALPartial, stop)
		}, missing: "000000010000000000000006"},
		{name: "the last one ends by a switch before the stop", fill: func(t *testing.T, r *repo.Repo) {
			full(t, r, one, 4, 5)
			archived(t, r, one, 6, repo.WALSwitch, stop-8)
		}, covered: true},
		{name: "the last one ends before the stop", fill: func(t *testing.T, r *repo.Repo) {
			full(t, r, one, 4, 5)
			archived(t, r, one, 6, 0, stop-8)
		}, err: "the backup needs it up to"},
		{name: "a segment was stored although it is damaged", fill: func(t *testing.T, r *repo.Repo) {
			full(t, r, one, 4, 6)
			archived(t, r, one, 5, repo.WALChainBreak|repo.WALNoRecordStart, testSegment.Start(6))
		}, err: "damaged"},
		{name: "the leader's segment is there alone", fill: func(t *testing.T, r *repo.Repo) {
			full(t, r, one, 4, 6)
			leaders(t, r, one, 5, 0, testSegment.Start(6))
		}, covered: true},
		{name: "the leader's segment, which is served, is damaged", fill: func(t *testing.T, r *repo.Repo) {
			full(t, r, one, 4, 5, 6)
			leaders(t, r, one, 5, repo.WALChainBreak|repo.WALNoRecordStart, testSegment.Start(6))
		}, err: "damaged"},
		{name: "the segment that the leader's replaces is damaged", fill: func(t *testing.T, r *repo.Repo) {
			full(t, r, one, 4, 6)
			archived(t, r, one, 5, repo.WALChainBreak|repo.WALNoRecordStart, testSegment.Start(6))
			leaders(t, r, one, 5, 0, testSegment.Start(6))
		}, covered: true},
		{name: "the cluster went on after the stop in the same segment", fill: func(t *testing.T, r *repo.Repo) {
			full(t, r, one, 4, 5)
			full(t, r, later, 6)
			putHistory(t, r, later)
		}, covered: true},
		{name: "the cluster went on before the stop", fill: func(t *testing.T, r *repo.Repo) {
			full(t, r, one, 4, 5)
			full(t, r, earlier, 6)
			putHistory(t, r, earlier)
		}, missing: "000000010000000000000006"},
		{name: "the new timeline's segment is still missing", fill: func(t *testing.T, r *repo.Repo) {
			full(t, r, one, 4, 5)
			putHistory(t, r, later)
		}, missing: "000000020000000000000006"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := repotest.New(t)
			c.fill(t, r)
			cover, err := covered(t.Context(), &b, &lineages{repo: r})
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("got %v, want %q", err, c.err)
			}
			if err == nil && cover.Reaches(stop) != c.covered {
				t.Errorf("covered up to %s", cover.Until)
			}
			if c.missing != "" && cover.Missing.Name(testSegment) != c.missing {
				t.Errorf("%s is missing, want %s", cover.Missing.Name(testSegment), c.missing)
			}
		})
	}
}

func putHistory(t *testing.T, r *repo.Repo, h pg.History) {
	t.Helper()
	if _, err := r.PutHistory(t.Context(), h.Timeline, h.Encode()); err != nil {
		t.Fatal(err)
	}
}

func TestAPrimaryOnALaterTimelineIsFollowedOrGivenUp(t *testing.T) {
	stop := testSegment.Start(6) + 500
	b := repotest.Backup(repotest.ID(1))
	b.SegmentSize, b.History = testSegment, nil
	b.Start, b.Stop = pg.Pos{Timeline: 1, LSN: testSegment.Start(4)}, pg.Pos{Timeline: 1, LSN: stop}
	fork := func(at pg.LSN) pg.History {
		return pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: at, Reason: "promoted"}}}
	}
	for _, c := range []struct {
		name      string
		archived  []pg.History
		led, dead bool
	}{
		{name: "its history is not archived yet"},
		{name: "it left after the stop", archived: []pg.History{fork(stop + 1)}, led: true},
		{name: "it left at the stop", archived: []pg.History{fork(stop)}, led: true},
		{name: "it left before the stop", archived: []pg.History{fork(stop - 1)}, dead: true},
		{name: "there are two timelines of this number", archived: []pg.History{fork(stop - 1), fork(stop + 1)}, led: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := repotest.New(t)
			for _, h := range c.archived {
				putHistory(t, r, h)
			}
			o := run{lines: &lineages{repo: r}}
			led, dead, err := o.followed(t.Context(), &b, 2)
			if err != nil || led != c.led || dead != c.dead {
				t.Errorf("led %v, dead %v, %v", led, dead, err)
			}
		})
	}
}

func TestAPendingBackupOfADeadBranchStaysPending(t *testing.T) {
	const stop = 0x200000 + 500
	fork := func(n pg.Timeline, at pg.LSN) pg.History {
		return pg.History{Timeline: n, Forks: []pg.Fork{{Parent: 1, Switch: at, Reason: "promoted"}}}
	}
	for _, c := range []struct {
		name   string
		lines  []pg.History
		commit bool
	}{
		{name: "no later timeline is known", commit: true},
		{name: "the cluster went on after the stop", lines: []pg.History{fork(2, stop+1)}, commit: true},
		{name: "the cluster went on before the stop", lines: []pg.History{fork(2, stop-1)}},
		{name: "one timeline left before the stop, another after it", lines: []pg.History{fork(2, stop-1), fork(3, stop+1)}, commit: true},
		{name: "a timeline of another branch left before the stop", lines: []pg.History{
			{Timeline: 5, Forks: []pg.Fork{{Parent: 2, Switch: stop - 1, Reason: "promoted"}}},
		}, commit: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := repotest.New(t)
			// The leader that was left behind has archived all its WAL.
			for n := pg.SegmentNumber(1); n <= 3; n++ {
				archived(t, r, pg.FirstTimeline(), n, 0, testSegment.Start(n+1))
			}
			for _, h := range c.lines {
				putHistory(t, r, h)
			}
			b := repotest.Backup(repotest.ID(1))
			b.SegmentSize, b.History, b.Tablespaces = testSegment, nil, nil
			b.Start, b.Stop = pg.Pos{Timeline: 1, LSN: testSegment.Start(1) + 40}, pg.Pos{Timeline: 1, LSN: stop}
			suspended(t, r, b)
			done, err := FinishPending(t.Context(), r, nil)
			if err != nil || (len(done) == 1) != c.commit {
				t.Errorf("committed %v, %v", done, err)
			}
		})
	}
}

// suspended stores a pending backup of one empty directory.
func suspended(t *testing.T, r *repo.Repo, b repo.Backup) {
	t.Helper()
	w, err := r.Create(t.Context(), b.ID, repo.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	entries := func(yield func(repo.Entry, error) bool) {
		yield(repo.Entry{Path: "base", Dir: true, Mode: 0o700, Modified: b.Started}, nil)
	}
	if _, err := w.Suspend(t.Context(), repo.Contents{Backup: b, Entries: entries}); err != nil {
		t.Fatal(err)
	}
}

func TestAPendingBackupSaysWhatItWaitsFor(t *testing.T) {
	e := &PendingError{Missing: "000000010000000000000005", Waited: time.Minute, Why: "the archiver has not stored it yet"}
	if s := e.Error(); !strings.Contains(s, e.Missing+" is not in the archive: "+e.Why) || !strings.Contains(e.Hint(), "archive_command") {
		t.Errorf("a segment is missing: %s\n%s", s, e.Hint())
	}
	e = &PendingError{Waited: time.Minute, Why: "the primary is on timeline 3, whose history is not in the archive yet"}
	if s := e.Error(); strings.Contains(s, "segment") || !strings.Contains(s, "follows its timeline: "+e.Why) || strings.Contains(e.Hint(), "archive_command") {
		t.Errorf("the timeline is not settled: %s\n%s", s, e.Hint())
	}
}
