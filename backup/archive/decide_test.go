package archive_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

func TestOwnerDecisions(t *testing.T) {
	down := errors.New("no answer")
	for _, c := range []struct {
		name  string
		facts archive.OwnerFacts
		want  archive.OwnerAction
	}{
		{"the same", archive.OwnerFacts{Repository: "a", DCS: "a"}, archive.OwnerGoOn},
		{"another", archive.OwnerFacts{Repository: "a", DCS: "b"}, archive.OwnerRefuse},
		{"lost by the DCS", archive.OwnerFacts{Repository: "a"}, archive.OwnerRefuse},
		{"a new repository", archive.OwnerFacts{DCS: "b"}, archive.OwnerClaimRepo},
		{"everything new", archive.OwnerFacts{}, archive.OwnerClaimDCS},
		{"the DCS is down", archive.OwnerFacts{Repository: "a", DCSError: down}, archive.OwnerGoOn},
		{"the DCS is down, a new repository", archive.OwnerFacts{DCSError: down}, archive.OwnerGoOn},
		{"no DCS", archive.OwnerFacts{Repository: "a", NoDCS: true}, archive.OwnerGoOn},
		{"no DCS, another's who has one", archive.OwnerFacts{Repository: "a", Where: "etcd", NoDCS: true}, archive.OwnerRefuse},
		{"the owner's DCS is down", archive.OwnerFacts{Repository: "a", Where: "etcd", DCSError: down}, archive.OwnerGoOn},
		{"no DCS, a new repository", archive.OwnerFacts{NoDCS: true}, archive.OwnerClaimWithout},
	} {
		d := archive.DecideOwner(c.facts)
		if d.Action != c.want || d.Reason == "" || (d.Err() != nil) != (c.want == archive.OwnerRefuse) {
			t.Errorf("%s: %+v, %v", c.name, d, d.Err())
		}
		if err := d.Err(); err != nil && (!errors.Is(err, archive.ErrForeignOwner) || !strings.Contains(finding.Hint(err), "adopt")) {
			t.Errorf("%s: %v, hint %q", c.name, err, finding.Hint(err))
		}
		// Who only has not said where the DCS is must not be sent to adopt first.
		if said := strings.HasPrefix(finding.Hint(d.Err()), "if this host is of that cluster, say in the configuration where its DCS is"); said != (d.Err() != nil && c.facts.NoDCS) {
			t.Errorf("%s: hint %q", c.name, finding.Hint(d.Err()))
		}
	}
}

// fakeDCS holds an owner id.
type fakeDCS struct {
	id   string
	down error
}

func (f *fakeDCS) dcs() *archive.OwnerDCS {
	return &archive.OwnerDCS{
		Where: "etcd",
		Read:  func(context.Context) (string, error) { return f.id, f.down },
		Create: func(_ context.Context, id string) (string, error) {
			if f.down == nil && f.id == "" {
				f.id = id
			}
			return f.id, f.down
		},
	}
}

func TestTheFirstWriterBecomesTheOwner(t *testing.T) {
	r, _ := repotest.New(t)
	ours, clone := &fakeDCS{}, &fakeDCS{}
	for range 2 {
		if _, err := archive.CheckOwner(t.Context(), r, ours.dcs()); err != nil {
			t.Fatal(err)
		}
	}
	owner, seq, err := r.CurrentOwner(t.Context())
	if err != nil || seq != 1 || owner.ID != ours.id || len(owner.ID) != 32 || owner.Where != "etcd" {
		t.Errorf("owner is %+v (%d), %v; want %s", owner, seq, err, ours.id)
	}
	if _, err := archive.CheckOwner(t.Context(), r, clone.dcs()); !errors.Is(err, archive.ErrForeignOwner) {
		t.Errorf("a clone with an empty DCS: %v", err)
	}
	clone.down = errors.New("no answer")
	if d, err := archive.CheckOwner(t.Context(), r, clone.dcs()); err != nil || d.Action != archive.OwnerGoOn {
		t.Errorf("a DCS that is down: %+v, %v", d, err)
	}
	clone.down = nil
	if _, err := archive.Adopt(t.Context(), r, clone.dcs(), "restored elsewhere"); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.CheckOwner(t.Context(), r, clone.dcs()); err != nil {
		t.Errorf("after adopt: %v", err)
	}
	if _, err := archive.CheckOwner(t.Context(), r, ours.dcs()); !errors.Is(err, archive.ErrForeignOwner) {
		t.Errorf("the former owner: %v", err)
	}
	if o, err := archive.Adopt(t.Context(), r, clone.dcs(), "again"); err != nil || o.ID != clone.id || o.Reason != "restored elsewhere" {
		t.Errorf("adopted again: %+v, %v", o, err)
	}
}

func TestAnIDOfTheDCSIsTakenOver(t *testing.T) {
	r, _ := repotest.New(t)
	if _, err := archive.CheckOwner(t.Context(), r, (&fakeDCS{id: "abc"}).dcs()); err != nil {
		t.Fatal(err)
	}
	if owner, _, err := r.CurrentOwner(t.Context()); err != nil || owner.ID != "abc" {
		t.Errorf("owner is %+v, %v", owner, err)
	}
}

func TestOwnersWithoutADCS(t *testing.T) {
	r, _ := repotest.New(t)
	for range 2 {
		if _, err := archive.CheckOwner(t.Context(), r, nil); err != nil {
			t.Fatal(err)
		}
	}
	if owner, seq, err := r.CurrentOwner(t.Context()); err != nil || owner.ID == "" || seq != 1 {
		t.Errorf("owner is %+v (%d), %v", owner, seq, err)
	}
}

// TestACopyOnABareHostIsRefused: it was restored without a DCS, from a cluster
// that has one.
func TestACopyOnABareHostIsRefused(t *testing.T) {
	r, store := repotest.New(t)
	if _, err := archive.CheckOwner(t.Context(), r, (&fakeDCS{}).dcs()); err != nil {
		t.Fatal(err)
	}
	before := len(keys(t, store))
	opts := archive.PushOptions{
		Path:       filled(1, 4, 4).save(t, t.TempDir(), 4, ""),
		CheckOwner: func(ctx context.Context) error { _, err := archive.CheckOwner(ctx, r, nil); return err },
	}
	_, err := archive.Push(t.Context(), r, opts)
	if !errors.Is(err, archive.ErrForeignOwner) || !strings.Contains(err.Error(), "etcd") || !strings.Contains(finding.Hint(err), "adopt") || len(keys(t, store)) != before {
		t.Errorf("error is %v, objects %q", err, keys(t, store))
	}
	if _, err := archive.Adopt(t.Context(), r, nil, "this one counts now"); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Push(t.Context(), r, opts); err != nil {
		t.Errorf("after adopt: %v", err)
	}
}

// TestOnlyOneOfTwoFirstWritersOwns: both read "no owner"; the slower one meets
// the other's.
func TestOnlyOneOfTwoFirstWritersOwns(t *testing.T) {
	r, _ := repotest.New(t)
	slow := &fakeDCS{id: "slow"}
	d := slow.dcs()
	d.Read = func(ctx context.Context) (string, error) {
		d.Read = slow.dcs().Read
		_, err := archive.CheckOwner(ctx, r, (&fakeDCS{id: "fast"}).dcs())
		return slow.id, err
	}
	if _, err := archive.CheckOwner(t.Context(), r, d); !errors.Is(err, archive.ErrForeignOwner) {
		t.Errorf("error is %v", err)
	}
}

// Histories of the tables below; one segment is 1 MiB.
var (
	two   = pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x580000}}}
	three = pg.History{Timeline: 3, Forks: []pg.Fork{{Parent: 1, Switch: 0x580000}, {Parent: 2, Switch: 0x700000}}}
	// passed left timeline 2 before the point where 2 left 1: recovery that
	// followed 2 stopped early.
	passed = pg.History{Timeline: 3, Forks: []pg.Fork{{Parent: 1, Switch: 0x580000}, {Parent: 2, Switch: 0x480000}}}
	other  = pg.History{Timeline: 3, Forks: []pg.Fork{{Parent: 1, Switch: 0x480000}}}
)

func TestTheTimelineThatASegmentComesFrom(t *testing.T) {
	for _, c := range []struct {
		name string
		h    pg.History
		want []pg.Timeline // of segments 3, 4, …
	}{
		{"one timeline", pg.FirstTimeline(), []pg.Timeline{1, 1, 1}},
		{"a fork inside a segment", two, []pg.Timeline{1, 1, 2, 2}},
		{"another at a segment's start", three, []pg.Timeline{1, 1, 2, 2, 3}},
		{"a timeline that was passed over", passed, []pg.Timeline{1, 3, 3, 3}},
	} {
		for i, want := range c.want {
			n := pg.SegmentNumber(3 + i)
			if got := archive.SegmentTimeline(c.h, segSize, n); got != want {
				t.Errorf("%s: segment %d is of timeline %s, want %s", c.name, n, got, want)
			}
			for tl := pg.Timeline(1); tl < 5; tl++ {
				if got := archive.Serves(c.h, segSize, pg.Segment{Timeline: tl, Number: n}); got != (tl == want) {
					t.Errorf("%s: segment %d of timeline %s is served: %v", c.name, n, tl, got)
				}
			}
		}
	}
}

// archived makes an archive of the named segments, timeline by timeline, and
// the histories.
func archived(t *testing.T, histories []pg.History, segments map[pg.Timeline][]pg.SegmentNumber) *repo.Repo {
	t.Helper()
	r, _ := repotest.New(t)
	dir := t.TempDir()
	for _, h := range histories {
		push(t, r, saveHistory(t, dir, h))
	}
	for tl, numbers := range segments {
		b := filled(tl, numbers[0], numbers[len(numbers)-1])
		for _, n := range numbers {
			push(t, r, b.save(t, dir, n, ""))
		}
	}
	return r
}

func seg(t pg.Timeline, n pg.SegmentNumber) pg.Segment { return pg.Segment{Timeline: t, Number: n} }

func TestCoverage(t *testing.T) {
	for _, c := range []struct {
		name     string
		h        pg.History
		archived map[pg.Timeline][]pg.SegmentNumber
		from     pg.LSN
		until    pg.LSN
		missing  pg.Segment
		beyond   int
	}{
		{"nothing", two, nil, 0x480000, 0x400000, seg(1, 4), 0},
		{"up to the archive's end", two, map[pg.Timeline][]pg.SegmentNumber{1: {4}, 2: {5, 6}}, 0x480000, 0x700000, seg(2, 7), 0},
		{"orphans do not count", two, map[pg.Timeline][]pg.SegmentNumber{1: {4, 5, 6}}, 0x480000, 0x500000, seg(2, 5), 0},
		{"a hole", two, map[pg.Timeline][]pg.SegmentNumber{1: {3}, 2: {5, 6}}, 0x300000, 0x400000, seg(1, 4), 2},
		{"the end of the old timeline is missing", three, map[pg.Timeline][]pg.SegmentNumber{1: {4}, 2: {5}, 3: {7}}, 0x480000, 0x600000, seg(2, 6), 1},
		{"from the newest timeline on", three, map[pg.Timeline][]pg.SegmentNumber{1: {4}, 3: {7, 8}}, 0x710000, 0x900000, seg(3, 9), 0},
		{"over a timeline that was passed over", passed, map[pg.Timeline][]pg.SegmentNumber{1: {3, 4}, 2: {5, 6}, 3: {4, 5}}, 0x300000, 0x600000, seg(3, 6), 0},
		{"another branch of the same number", other, map[pg.Timeline][]pg.SegmentNumber{1: {3}, 3: {7}}, 0x300000, 0x400000, seg(3, 4), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			histories := []pg.History{two, c.h}
			if c.h.Equal(other) {
				histories = []pg.History{two, three} // what is archived is three's
			}
			if c.archived == nil {
				histories = nil
			}
			r := archived(t, withoutSame(histories), c.archived)
			got, err := archive.Coverage(t.Context(), r, c.h, segSize, c.from)
			if err != nil {
				t.Fatal(err)
			}
			if got.Until != c.until || got.Missing != c.missing || got.Beyond != c.beyond || got.Hole() != (c.beyond > 0) {
				t.Errorf("got %+v, want until %s, missing %+v, %d beyond", got, c.until, c.missing, c.beyond)
			}
			if !got.Reaches(c.until) || got.Reaches(c.until+1) {
				t.Error("Reaches is not about Until")
			}
		})
	}
}

// TestALeadersSegmentCountsAlone: the object that it conflicted with is gone.
func TestALeadersSegmentCountsAlone(t *testing.T) {
	r, store := openMem(t)
	dir := t.TempDir()
	b, theirs := filled(1, 4, 6), newBuilder(1, 5)
	theirs.fill = 1
	theirs.until(segSize.Start(6))
	first := push(t, r, theirs.save(t, dir, 5, ""))
	for n := pg.SegmentNumber(4); n <= 6; n++ {
		if _, err := archive.Push(t.Context(), r, archive.PushOptions{Path: b.save(t, dir, n, ""), Leadership: leads}); err != nil {
			t.Fatal(err)
		}
	}
	for _, removed := range []bool{false, true} {
		if removed {
			if err := store.Delete(t.Context(), first.Key); err != nil {
				t.Fatal(err)
			}
		}
		c, err := archive.Coverage(t.Context(), r, pg.FirstTimeline(), segSize, segSize.Start(4))
		if err != nil || c.Until != segSize.Start(7) || c.Segments != 3 {
			t.Errorf("removed %v: covered up to %s by %d segments, %v", removed, c.Until, c.Segments, err)
		}
		for o, err := range archive.Along(t.Context(), r, pg.FirstTimeline(), segSize, 4) {
			if err != nil || o.Conflicting() != (o.Segment.Number == 5) {
				t.Errorf("removed %v: segment %d is given by %s, %v", removed, o.Segment.Number, o.Object.Key, err)
			}
		}
		s, err := archive.ReadStatus(t.Context(), r, archive.LineageOptions{})
		if err != nil || len(s.Timelines) != 1 || len(s.Timelines[0].Holes) != 0 || s.Timelines[0].Segments != 3 || len(s.Timelines[0].Conflicts) != 1 {
			t.Errorf("removed %v: status is %+v, %v", removed, s.Timelines, err)
		}
	}
}

// withoutSame drops all but the first of equal histories, and timeline 1.
func withoutSame(in []pg.History) (out []pg.History) {
	for i, h := range in {
		if h.Timeline > 1 && (i == 0 || !h.Equal(in[0])) {
			out = append(out, h)
		}
	}
	return out
}

func TestLineage(t *testing.T) {
	down := errors.New("no answer")
	leader := func(h pg.History, err error) func(context.Context) (pg.History, error) {
		return func(context.Context) (pg.History, error) { return h, err }
	}
	for _, c := range []struct {
		name     string
		archived []pg.History
		opts     archive.LineageOptions
		want     pg.History
		source   string
		err      error // a sentinel, or an AmbiguousError
	}{
		{"a timeline that was asked for", []pg.History{two, three}, archive.LineageOptions{Timeline: 2, Leader: leader(three, nil)}, two, "--timeline", nil},
		{"timeline 1 that was asked for", []pg.History{two}, archive.LineageOptions{Timeline: 1}, pg.FirstTimeline(), "--timeline", nil},
		{"a timeline that is not there", []pg.History{two}, archive.LineageOptions{Timeline: 9}, pg.History{}, "", archive.ErrNoHistory},
		{"a timeline that is there twice", []pg.History{three, other}, archive.LineageOptions{Timeline: 3}, pg.History{}, "", &archive.AmbiguousError{}},
		{"the leader's", []pg.History{two}, archive.LineageOptions{Leader: leader(three, nil)}, three, "leader", nil},
		{"nobody leads", []pg.History{two}, archive.LineageOptions{Leader: leader(pg.History{}, nil)}, two, "repository", nil},
		{"the DCS is down", []pg.History{two, three}, archive.LineageOptions{Leader: leader(pg.History{}, down)}, three, "repository", nil},
		{"nobody to ask", []pg.History{two, three}, archive.LineageOptions{}, three, "repository", nil},
		{"nothing but timeline 1", nil, archive.LineageOptions{}, pg.FirstTimeline(), "repository", nil},
		{"two branches", []pg.History{two, other}, archive.LineageOptions{}, pg.History{}, "", &archive.AmbiguousError{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := archived(t, c.archived, nil)
			got, err := archive.ResolveLineage(t.Context(), r, c.opts)
			if c.err != nil {
				if ambiguous := (*archive.AmbiguousError)(nil); !errors.Is(err, c.err) && !(errors.As(err, &ambiguous) && errors.As(c.err, &ambiguous)) {
					t.Errorf("error is %v, want %v", err, c.err)
				}
				return
			}
			if err != nil || !got.Equal(c.want) || got.Source != c.source {
				t.Errorf("got %+v, %v; want %+v by %s", got, err, c.want, c.source)
			}
		})
	}
}

func spanNames(spans []archive.Span) (out []string) {
	for _, s := range spans {
		first, last := s.Names(segSize)
		out = append(out, strings.TrimLeft(first[:8], "0")+":"+strings.TrimLeft(first[8:], "0")+"-"+strings.TrimLeft(last[8:], "0"))
	}
	return out
}

func TestStatus(t *testing.T) {
	type timeline struct {
		Spans, Holes []string
		Orphans      int
		OnLineage    bool
	}
	for _, c := range []struct {
		name      string
		histories []pg.History
		archived  map[pg.Timeline][]pg.SegmentNumber
		opts      archive.LineageOptions
		want      []timeline
		worst     finding.Severity
	}{
		{"nothing", nil, nil, archive.LineageOptions{}, nil, finding.OK},
		{
			"one timeline", nil, map[pg.Timeline][]pg.SegmentNumber{1: {4, 5, 6}}, archive.LineageOptions{},
			[]timeline{{Spans: []string{"1:4-6"}, OnLineage: true}}, finding.OK,
		},
		{
			"holes", nil, map[pg.Timeline][]pg.SegmentNumber{1: {4, 6, 9}}, archive.LineageOptions{},
			[]timeline{{Spans: []string{"1:4-4", "1:6-6", "1:9-9"}, Holes: []string{"1:5-5", "1:7-8"}, OnLineage: true}}, finding.Error,
		},
		{
			"a failover, with orphans", []pg.History{two}, map[pg.Timeline][]pg.SegmentNumber{1: {4, 5, 6}, 2: {5, 6}}, archive.LineageOptions{},
			[]timeline{{Spans: []string{"1:4-6"}, Orphans: 2, OnLineage: true}, {Spans: []string{"2:5-6"}, OnLineage: true}}, finding.Info,
		},
		{
			"a failover that left a hole", []pg.History{two}, map[pg.Timeline][]pg.SegmentNumber{1: {3}, 2: {6}}, archive.LineageOptions{},
			[]timeline{{Spans: []string{"1:3-3"}, Holes: []string{"1:4-4"}, OnLineage: true}, {Spans: []string{"2:6-6"}, Holes: []string{"2:5-5"}, OnLineage: true}}, finding.Error,
		},
		{
			"a timeline of which nothing is archived", []pg.History{two, three}, map[pg.Timeline][]pg.SegmentNumber{1: {4}, 3: {7}}, archive.LineageOptions{},
			[]timeline{{Spans: []string{"1:4-4"}, OnLineage: true}, {Holes: []string{"2:5-6"}, OnLineage: true}, {Spans: []string{"3:7-7"}, OnLineage: true}}, finding.Error,
		},
		{
			"a branch that died", []pg.History{two}, map[pg.Timeline][]pg.SegmentNumber{1: {4, 5}, 2: {5, 7}}, archive.LineageOptions{Timeline: 1},
			[]timeline{{Spans: []string{"1:4-5"}, OnLineage: true}, {Spans: []string{"2:5-5", "2:7-7"}, Holes: []string{"2:6-6"}, Orphans: 2}}, finding.Info,
		},
		{
			"nobody knows which branch", []pg.History{two, other}, map[pg.Timeline][]pg.SegmentNumber{1: {4, 5}}, archive.LineageOptions{},
			[]timeline{{Spans: []string{"1:4-5"}}}, finding.Warning,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := archive.ReadStatus(t.Context(), archived(t, c.histories, c.archived), c.opts)
			if err != nil {
				t.Fatal(err)
			}
			var got []timeline
			for _, tl := range s.Timelines {
				got = append(got, timeline{spanNames(tl.Spans), spanNames(tl.Holes), tl.Orphans, tl.OnLineage})
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("timelines (-want +got):\n%s", diff)
			}
			if w := finding.Worst(s.Findings()); w != c.worst {
				t.Errorf("findings are %v, want %s", s.Findings(), c.worst)
			}
		})
	}
}

// TestAFormerLeaderThatGoesOn: its Patroni hangs, its server does not, and it
// archives what nobody will ever see. That is told for as long as it does.
func TestAFormerLeaderThatGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := repotest.New(t)
		dir := t.TempDir()
		b := filled(1, 4, 8)
		told := func(when string, want finding.Severity) {
			t.Helper()
			s, err := archive.ReadStatus(t.Context(), r, archive.LineageOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := finding.Worst(s.Findings()); got != want {
				t.Errorf("%s: findings are %v, want %s", when, s.Findings(), want)
			}
		}
		push(t, r, b.save(t, dir, 4, ""))
		push(t, r, saveHistory(t, dir, two)) // which leaves timeline 1 in segment 5
		push(t, r, b.save(t, dir, 6, ""))
		told("what was under way", finding.Info)
		time.Sleep(30 * time.Minute)
		push(t, r, b.save(t, dir, 5, ""))
		told("the segment of the fork, of a leader that came back", finding.Info)
		push(t, r, b.save(t, dir, 7, ""))
		told("what a running one archives", finding.Error)
		time.Sleep(2 * time.Hour)
		told("long ago", finding.Info)
		push(t, r, b.save(t, dir, 8, ""))
		told("again", finding.Error)
		time.Sleep(3 * time.Hour)
		told("one that archives every few hours", finding.Error)
		time.Sleep(2 * time.Hour)
		told("one that has ended", finding.Info)
	})
}

// TestATimelineThatTheLeaderIsNotOn is a promoted copy's, unless it has just begun or
// the leader's is newer.
func TestATimelineThatTheLeaderIsNotOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := repotest.New(t)
		dir := t.TempDir()
		told := func(when string, leader pg.History, want finding.Severity) {
			t.Helper()
			leads := func(context.Context) (pg.History, error) { return leader, nil }
			s, err := archive.ReadStatus(t.Context(), r, archive.LineageOptions{Leader: leads})
			if err != nil {
				t.Fatal(err)
			}
			if got := finding.Worst(s.Findings()); got != want {
				t.Errorf("%s: findings are %v, want %s", when, s.Findings(), want)
			}
		}
		push(t, r, filled(1, 4, 6).save(t, dir, 4, ""))
		push(t, r, saveHistory(t, dir, two))
		begun := time.Now()
		push(t, r, filled(2, 5, 6).save(t, dir, 5, ""))
		told("it has just begun", pg.FirstTimeline(), finding.Info)
		time.Sleep(time.Until(begun.Add(2 * time.Minute)))
		told("a copy's", pg.FirstTimeline(), finding.Error)
		told("the leader's", two, finding.OK)
		push(t, r, saveHistory(t, dir, other))
		time.Sleep(time.Hour)
		told("a history and nothing else", two, finding.OK)
	})
}

func TestStatusShowsConflicts(t *testing.T) {
	r, _ := repotest.New(t)
	dir := t.TempDir()
	first, second := rivals()
	push(t, r, first.save(t, dir, 4, ""))
	path := second.save(t, dir, 4, "")
	if _, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path, Member: "pg2"}); !errors.Is(err, repo.ErrConflict) {
		t.Fatal(err)
	}
	if _, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path, Member: "pg2", Leadership: leads}); err != nil {
		t.Fatal(err)
	}
	s, err := archive.ReadStatus(t.Context(), r, archive.LineageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Alarms) != 2 || s.Alarms[0].Member != "pg2" || len(s.Timelines) != 1 || len(s.Timelines[0].Conflicts) != 1 || s.Timelines[0].Segments != 1 {
		t.Errorf("status is %+v", s)
	}
	text := ""
	for _, f := range s.Findings() {
		text += f.String() + "\n"
	}
	for _, want := range []string{"quarantine", "twice with different content", first.name(4), s.Alarms[0].ID.String()} {
		if !strings.Contains(text, want) {
			t.Errorf("findings do not name %q:\n%s", want, text)
		}
	}
}

func TestBackfill(t *testing.T) {
	r, _ := repotest.New(t)
	dir := t.TempDir()
	old := newBuilder(1, 4)
	old.until(segSize.Start(8) + 100_000)
	next := old.fork(2)
	next.until(segSize.Start(9) + 1)
	h := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: old.at}}}
	for n := pg.SegmentNumber(4); n <= 8; n++ {
		old.save(t, dir, n, "")
	}
	next.save(t, dir, 8, "")
	old.segments[9] = make([]byte, segSize) // recycled ahead, never written
	old.save(t, dir, 9, "")
	push(t, r, filepath.Join(dir, old.name(4)))
	save(t, filepath.Join(mkdir(t, dir, "archive_status"), old.name(5)+".ready"), nil)
	old.segments[6][5000] ^= 1 // damaged
	old.save(t, dir, 6, "")

	result := push(t, r, saveHistory(t, dir, h))
	want := &archive.BackfillResult{Archived: []string{old.name(7)}, Refused: []string{old.name(6)}}
	if diff := cmp.Diff(want, result.Backfill); diff != "" || result.Outcome != archive.Stored {
		t.Errorf("backfill (-want +got):\n%s", diff)
	}
	// What is archived is not offered again, and what was mended is.
	old.segments[6][5000] ^= 1
	old.save(t, dir, 6, "")
	result = push(t, r, filepath.Join(dir, "00000002.history"))
	if diff := cmp.Diff(&archive.BackfillResult{Archived: []string{old.name(6)}}, result.Backfill); diff != "" {
		t.Errorf("second backfill (-want +got):\n%s", diff)
	}
}

func TestABackfillEndsWithItsTime(t *testing.T) {
	r, _ := repotest.New(t)
	dir := t.TempDir()
	b := filled(1, 4, 5)
	b.save(t, dir, 4, "")
	b.save(t, dir, 5, "")
	h := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x680000}}}
	got, err := archive.Backfill(t.Context(), r, h, archive.PushOptions{WALDir: dir, BackfillBudget: 1})
	if err == nil || len(got.Archived) != 0 || len(got.Left) != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestADCSThatHangsIsDown: it does not hold up what goes on without it.
func TestADCSThatHangsIsDown(t *testing.T) {
	dir := t.TempDir()
	first, second := rivals()
	synctest.Test(t, func(t *testing.T) {
		r, _ := openMem(t)
		hang := func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }
		dcs := &archive.OwnerDCS{Read: hang, Create: func(ctx context.Context, _ string) (string, error) { return hang(ctx) }}
		opts := archive.PushOptions{
			Path:       first.save(t, dir, 4, ""),
			CheckOwner: func(ctx context.Context) error { _, err := archive.CheckOwner(ctx, r, dcs); return err },
			Leadership: func(ctx context.Context) (archive.Proof, error) { _, err := hang(ctx); return archive.Leader, err },
		}
		if _, err := archive.Push(t.Context(), r, opts); err != nil {
			t.Errorf("push: %v", err)
		}
		opts.Path = second.save(t, dir, 4, "")
		var conflict *archive.ConflictError
		if _, err := archive.Push(t.Context(), r, opts); !errors.As(err, &conflict) || conflict.Proof != archive.Unknown {
			t.Errorf("push of what differs: %v", err)
		}
		dcs.Read = func(context.Context) (string, error) { return "", nil }
		if d, err := archive.CheckOwner(t.Context(), r, dcs); err != nil || d.Action != archive.OwnerGoOn {
			t.Errorf("an owner that cannot be created: %+v, %v", d, err)
		}
		leader := func(ctx context.Context) (pg.History, error) { _, err := hang(ctx); return pg.History{}, err }
		if l, err := archive.ResolveLineage(t.Context(), r, archive.LineageOptions{Leader: leader}); err != nil || l.Source != "repository" {
			t.Errorf("lineage: %+v, %v", l, err)
		}
	})
}
