package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// push pushes a file, which must succeed.
func push(t testing.TB, r *repo.Repo, path string) archive.PushResult {
	t.Helper()
	result, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path, Member: "pg1"})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// keys lists the store's keys below the cluster, without its name.
func keys(t testing.TB, s storage.Store) []string {
	t.Helper()
	var out []string
	for o, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		k, err := repo.ParseKey(o.Key)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, k.Name())
	}
	return out
}

// alarmKinds gives the kinds and subjects of the alarms.
func alarmKinds(t testing.TB, r *repo.Repo) []string {
	t.Helper()
	all, err := archive.Alarms(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range all {
		out = append(out, a.Kind+" "+a.Subject)
	}
	return out
}

func readBack(t testing.TB, r *repo.Repo, key string) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := r.ReadWAL(t.Context(), key, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestASegmentIsStoredWithWhatWasReadOfIt(t *testing.T) {
	r, _ := repotest.New(t)
	b, dir := filled(1, 4, 5), t.TempDir()
	path := b.save(t, dir, 4, "")
	b.save(t, dir, 5, "")
	result := push(t, r, path)
	if want := b.name(4); result.Name != want || result.Outcome != archive.Stored {
		t.Errorf("result is %+v, want %s stored", result, want)
	}
	meta, err := r.ReadWALMeta(t.Context(), result.Key, 0)
	if err != nil {
		t.Fatal(err)
	}
	in, err := wal.Inspect(b.segments[4], wal.Expect{})
	if err != nil {
		t.Fatal(err)
	}
	h := meta.Header
	type positions struct {
		End, First, Prev, Last, LastComplete pg.LSN
		BlockSize                            int
		FirstTimeline, LastTimeline          pg.Timeline
	}
	got := positions{h.End, h.FirstRecord, h.FirstPrev, h.LastRecord, h.LastComplete, int(h.BlockSize), h.FirstTimeline, h.LastTimeline}
	want := positions{in.Info.End, in.Info.First, in.Info.FirstPrev, in.Info.Last, in.Info.LastComplete, 8192, 1, 1}
	if got != want {
		t.Errorf("positions are %+v, want %+v", got, want)
	}
	if h.Flags != repo.WALEndsInside|repo.WALBlockMap {
		t.Errorf("flags are %d", h.Flags)
	}
	if m, err := wal.DecodeBlockMap(meta.BlockMap); err != nil || !m.Equal(in.Map) || m.Empty() {
		t.Errorf("block map is not the segment's: %v", err)
	}
	if !bytes.Equal(meta.Carry, in.Carry.Encode()) {
		t.Error("carry is not the segment's")
	}
	if !bytes.Equal(readBack(t, r, result.Key), b.segments[4]) {
		t.Error("content is not the segment's")
	}

	again := push(t, r, path)
	if again.Outcome != archive.AlreadyArchived || again.Key != result.Key {
		t.Errorf("pushed again: %+v", again)
	}
}

func TestWhatFollowsASwitchDoesNotCount(t *testing.T) {
	r, _ := repotest.New(t)
	b := newBuilder(1, 4)
	b.insert(1)
	b.switchSegment()
	dir := t.TempDir()
	result := push(t, r, b.save(t, dir, 4, ""))
	other := slices.Clone(b.segments[4])
	copy(other[len(other)/2:], "left over from before")
	if again := push(t, r, save(t, filepath.Join(dir, b.name(4)), other)); again.Outcome != archive.AlreadyArchived {
		t.Errorf("pushed with another tail: %+v", again)
	}
	if !bytes.Equal(readBack(t, r, result.Key), b.segments[4]) {
		t.Error("content is not the segment's")
	}
}

// TestRefusedFiles: what is pushed under the name, and what the error says.
func TestRefusedFiles(t *testing.T) {
	sound := filled(1, 4, 5)
	name := sound.name(4)
	foreign := newBuilder(1, 4)
	foreign.system = 42
	foreign.until(segSize.Start(5))
	flipped := slices.Clone(sound.segments[4])
	flipped[300_000] ^= 4
	ended := newBuilder(1, 4)
	ended.until(segSize.Start(4) + 100_000)
	torn := slices.Clone(sound.segments[4])
	clear(torn[500_001:])
	for _, c := range []struct {
		name, file string
		content    []byte
		next       bool // the next segment is there too
		want       []string
		alarm      bool
	}{
		{"another segment's name", sound.name(5), sound.segments[4], false, []string{"0/400000", "0/500000"}, false},
		{"an older timeline's name is a newer's content", name, filled(2, 4, 4).segments[4], false, []string{"timeline 2", "says 1"}, false},
		{"another cluster's", name, foreign.segments[4], false, []string{"42", "7123456789012345678"}, false},
		{"a segment that is short", name, sound.segments[4][:1<<19], false, []string{"524288"}, false},
		{"a segment of half its size", name, append(slices.Clone(sound.segments[4]), sound.segments[5]...), false, []string{"2097152", "1048576"}, true},
		{"an empty file", name, nil, false, []string{"0 bytes"}, false},
		{"a bit that flipped", name, flipped, false, []string{"is damaged", "0/449"}, true},
		{"a segment of zeros", name, make([]byte, segSize), false, []string{"damaged"}, true},
		{"WAL that ends, with no fork known", name, ended.segments[4], false, []string{"WAL ends at 0/418", "no history file"}, false},
		{"WAL that ends, and goes on in the next", name, ended.segments[4], true, []string{"is damaged", "next segment exists"}, true},
		{"WAL that breaks off", name, torn, false, []string{"WAL ends at 0/47", "no history file"}, false},
		{"WAL that breaks off, and goes on in the next", name, torn, true, []string{"is damaged"}, true},
		{"a name that is none", "core", []byte("x"), false, []string{"no WAL segment"}, false},
		{"a history that was cut off", "00000002.history", []byte("1\t0/40"), false, []string{"truncated"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, store := repotest.New(t)
			dir := t.TempDir()
			path := save(t, filepath.Join(dir, c.file), c.content)
			if c.next {
				sound.save(t, dir, 5, "")
			}
			for range 2 { // the archiver tries again
				_, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path, Member: "pg1"})
				if err == nil {
					t.Fatal("no error")
				}
				for _, want := range c.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%q does not name %q", err, want)
					}
				}
			}
			var want []string
			if c.alarm {
				want = []string{archive.AlarmDamage + " " + c.file}
			}
			if got := alarmKinds(t, r); !cmp.Equal(got, want) {
				t.Errorf("alarms are %q, want %q", got, want)
			}
			for _, k := range keys(t, store) {
				if !strings.HasPrefix(k, "event/") {
					t.Errorf("%s was stored", k)
				}
			}
		})
	}
}

func TestAnOperatorCanAcceptADamagedSegment(t *testing.T) {
	r, _ := repotest.New(t)
	b := filled(1, 4, 4)
	b.segments[4][300_000] ^= 4
	result, err := archive.Push(t.Context(), r, archive.PushOptions{Path: b.save(t, t.TempDir(), 4, ""), AcceptDamaged: true})
	if err != nil {
		t.Fatal(err)
	}
	h, err := r.ReadWALHeader(t.Context(), result.Key)
	if err != nil {
		t.Fatal(err)
	}
	if h.Flags != repo.WALChainBreak|repo.WALNoRecordStart {
		t.Errorf("flags are %d: an incremental backup must not lean on it", h.Flags)
	}
	if !bytes.Equal(readBack(t, r, result.Key), b.segments[4]) {
		t.Error("content is not the segment's")
	}
}

func TestSystemIDOfTheServerIsCompared(t *testing.T) {
	r, _ := repotest.New(t)
	_, err := archive.Push(t.Context(), r, archive.PushOptions{Path: filled(1, 4, 4).save(t, t.TempDir(), 4, ""), SystemID: 42})
	if err == nil || !strings.Contains(err.Error(), "42") || finding.Hint(err) == "" {
		t.Errorf("error is %v", err)
	}
}

// TestTheEndOfATimeline: the last segment of timeline 1, under the names that
// servers give it.
func TestTheEndOfATimeline(t *testing.T) {
	old := newBuilder(1, 4)
	old.until(segSize.Start(4) + 100_000)
	end := old.at
	left := slices.Clone(old.segments[4])
	old.until(segSize.Start(4) + 200_000) // what never reached the new leader
	next := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: end}}}
	rubbish := bytes.Repeat([]byte("rubbish!"), 1<<17)
	for _, c := range []struct {
		name, suffix string
		content      []byte
		history      bool
		end          pg.LSN
		flags        repo.WALFlags // expected
	}{
		{"by the leader, as .partial", ".partial", left, true, end, repo.WALPartial | repo.WALBlockMap},
		{"by a standby that archives, under its full name", "", left, true, end, repo.WALPartial | repo.WALBlockMap},
		{"with more than the new timeline took", ".partial", old.segments[4], true, end, repo.WALPartial | repo.WALBlockMap},
		{"as .partial, with nothing known", ".partial", left, false, end, repo.WALPartial | repo.WALBlockMap},
		{"as .partial of no WAL", ".partial", rubbish, true, segSize.Start(5), repo.WALPartial | repo.WALUnchecked},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := repotest.New(t)
			dir := t.TempDir()
			if c.history {
				saveHistory(t, dir, next)
			}
			result := push(t, r, save(t, filepath.Join(dir, old.name(4)+c.suffix), c.content))
			h, err := r.ReadWALHeader(t.Context(), result.Key)
			if err != nil {
				t.Fatal(err)
			}
			if result.Name != old.name(4)+".partial" || h.End != c.end || h.Flags != c.flags {
				t.Errorf("stored as %s, end %s, flags %d; want .partial, %s, %d", result.Name, h.End, h.Flags, c.end, c.flags)
			}
		})
	}
}

// TestAStandbyHasMoreThanWasPromoted: the lost leader had sent it the beginning of
// a segment that belongs to no history any more, and the archiver is offered it
// under its full name.
func TestAStandbyHasMoreThanWasPromoted(t *testing.T) {
	old := newBuilder(1, 4)
	old.until(segSize.Start(4) + 100_000)
	end := old.at
	start := slices.Clone(old.segments[4])
	for _, c := range []struct {
		name     string
		left     pg.LSN // where timeline 1 was left; 0: not known
		followed bool   // by the next segment
		stored   bool
	}{
		{"left where the segment begins", segSize.Start(4), false, true},
		{"left before", segSize.Start(4) - 1000, false, true},
		{"nothing known", 0, false, false},
		{"left later", segSize.Start(6), false, false},
		{"left before, but WAL went on", segSize.Start(4), true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := repotest.New(t)
			dir := t.TempDir()
			if c.left != 0 {
				saveHistory(t, dir, pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: c.left}}})
			}
			if c.followed {
				filled(1, 5, 5).save(t, dir, 5, "")
			}
			result, err := archive.Push(t.Context(), r, archive.PushOptions{Path: save(t, filepath.Join(dir, old.name(4)), start)})
			if !c.stored {
				if err == nil {
					t.Errorf("it is %s", result.Outcome)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			h, err := r.ReadWALHeader(t.Context(), result.Key)
			if err != nil {
				t.Fatal(err)
			}
			if result.Name != old.name(4)+".partial" || h.End != end || h.Flags != repo.WALPartial|repo.WALBlockMap {
				t.Errorf("stored as %s, end %s, flags %d; want .partial, %s", result.Name, h.End, h.Flags, end)
			}
		})
	}
}

// TestASegmentThatWasNeverWritten: what a server made ready ahead of WAL, it
// offers to the archiver when it removes old files. There is nothing to archive if
// the timeline was left before, and only then.
func TestASegmentThatWasNeverWritten(t *testing.T) {
	boundary := segSize.Start(4)
	written := filled(1, 4, 4).segments[4]
	renamed := filled(1, 2, 2).segments[2] // an old one, for use as segment 4
	foreign := slices.Clone(renamed)
	foreign[24] ^= 1
	torn := slices.Clone(written)
	torn[8192+50] ^= 1
	for _, c := range []struct {
		name    string
		content []byte
		left    pg.LSN // where timeline 1 was left; 0: not known
		want    archive.Outcome
	}{
		{"empty, and left at its start", make([]byte, segSize), boundary, archive.Unwritten},
		{"empty, and left before", make([]byte, segSize), boundary - 1000, archive.Unwritten},
		{"an old one renamed, and left at its start", renamed, boundary, archive.Unwritten},
		{"empty, and nothing known", make([]byte, segSize), 0, ""},
		{"an old one renamed, and nothing known", renamed, 0, ""},
		{"empty, and left within", make([]byte, segSize), boundary + 1000, ""},
		{"empty, and left later", make([]byte, segSize), segSize.Start(6), ""},
		{"written, and left at its start", written, boundary, archive.Stored},
		{"of another cluster, and left at its start", foreign, boundary, ""},
		{"written and damaged, and left at its start", torn, boundary, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, s := repotest.New(t)
			dir := t.TempDir()
			if c.left != 0 {
				saveHistory(t, dir, pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: c.left}}})
			}
			path := save(t, filepath.Join(dir, newBuilder(1, 4).name(4)), c.content)
			result, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path})
			if result.Outcome != c.want || (err == nil) != (c.want != "") {
				t.Errorf("outcome %q, error %v; want %q", result.Outcome, err, c.want)
			}
			for _, key := range keys(t, s) {
				if strings.HasPrefix(key, "wal/") && c.want != archive.Stored {
					t.Errorf("%s was stored", key)
				}
			}
		})
	}
}

// TestWhereTheHistoryOfATimelineIsFound: a segment's place needs the ancestry of
// its timeline.
func TestWhereTheHistoryOfATimelineIsFound(t *testing.T) {
	one := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x400000}}}
	two := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x380000}}}
	for _, c := range []struct {
		name     string
		local    []pg.History
		archived []pg.History
		want     pg.History // zero: an error
	}{
		{"beside the segment", []pg.History{one}, []pg.History{two}, one},
		{"in the archive", nil, []pg.History{two}, two},
		{"nowhere", nil, nil, pg.History{}},
		{"twice in the archive", nil, []pg.History{one, two}, pg.History{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := repotest.New(t)
			dir := t.TempDir()
			for _, h := range c.local {
				saveHistory(t, dir, h)
			}
			for _, h := range c.archived {
				if _, err := r.PutHistory(t.Context(), h.Timeline, h.Encode()); err != nil {
					t.Fatal(err)
				}
			}
			result, err := archive.Push(t.Context(), r, archive.PushOptions{Path: filled(2, 4, 4).save(t, dir, 4, "")})
			if c.want.Timeline == 0 {
				if err == nil || !strings.Contains(err.Error(), "00000002.history") || finding.Hint(err) == "" {
					t.Errorf("error is %v", err)
				}
			} else if err != nil || result.Incarnation != repo.IncarnationOf(c.want) {
				t.Errorf("got %s, %v; want %s", result.Incarnation, err, repo.IncarnationOf(c.want))
			}
		})
	}
}

func TestASegmentOfAnotherAncestryIsRefused(t *testing.T) {
	r, _ := repotest.New(t)
	dir := t.TempDir()
	saveHistory(t, dir, pg.History{Timeline: 3, Forks: []pg.Fork{{Parent: 1, Switch: 0x380000}}})
	parent := newBuilder(2, 4) // timeline 3 left 1, so 2 cannot be on its pages
	parent.until(segSize.Start(4) + 100_000)
	b := parent.fork(3)
	b.until(segSize.Start(5))
	_, err := archive.Push(t.Context(), r, archive.PushOptions{Path: b.save(t, dir, 4, "")})
	if !errors.Is(err, wal.ErrForeign) || !strings.Contains(err.Error(), "timeline 2") {
		t.Errorf("error is %v", err)
	}
}

// TestAnObjectThatWasCutIsNoArchivedSegment: its header is whole and equal, and
// PostgreSQL must keep the only good copy all the same.
func TestAnObjectThatWasCutIsNoArchivedSegment(t *testing.T) {
	for _, expected := range []bool{false, true} {
		store := mem.New()
		r := repo.Open(store, repotest.Cluster, repo.Options{})
		dir := t.TempDir()
		b := newBuilder(1, 4)
		b.until(b.size.Start(6))
		path := b.save(t, dir, 4, "")
		b.save(t, dir, 5, "")
		push(t, r, path)
		cut(t, store, b.name(4))
		opts := archive.PushOptions{Path: path, Expected: expected}
		result, err := archive.Push(t.Context(), r, opts)
		if !errors.Is(err, repo.ErrConflict) && !errors.Is(err, repo.ErrCorrupt) {
			t.Errorf("expected %t: pushed as somebody: %+v, %v", expected, result, err)
		}
		opts.Leadership = leads
		result, err = archive.Push(t.Context(), r, opts)
		if err != nil || result.Outcome != archive.StoredBeside {
			t.Errorf("expected %t: pushed as the leader: %+v, %v", expected, result, err)
		}
	}
}

func TestAHistoryIsArchivedUnderItsAncestry(t *testing.T) {
	r, store := repotest.New(t)
	dir := t.TempDir()
	h := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x400000, Reason: "no recovery target specified"}}}
	path := saveHistory(t, dir, h)
	if got := push(t, r, path); got.Outcome != archive.Stored || got.Incarnation != repo.IncarnationOf(h) {
		t.Errorf("got %+v", got)
	}
	if got := push(t, r, path); got.Outcome != archive.AlreadyArchived {
		t.Errorf("pushed again: %+v", got)
	}
	other := h
	other.Forks = []pg.Fork{{Parent: 1, Switch: 0x380000}}
	if got := push(t, r, saveHistory(t, dir, other)); got.Outcome != archive.Stored {
		t.Errorf("another timeline 2: %+v", got)
	}
	if n := len(keys(t, store)); n != 2 {
		t.Errorf("%d objects, want the two histories", n)
	}
}

func TestABackupHistoryFileIsArchived(t *testing.T) {
	r, store := repotest.New(t)
	dir := t.TempDir()
	b := filled(1, 4, 4)
	b.save(t, dir, 4, "") // tells the segment size
	path := save(t, filepath.Join(dir, b.name(4)+".00000028.backup"), []byte("START WAL LOCATION: 0/400028\n"))
	result := push(t, r, path)
	if got, err := r.BackupHistory(t.Context(), result.Key); err != nil || string(got) != "START WAL LOCATION: 0/400028\n" {
		t.Errorf("read %q, %v", got, err)
	}
	push(t, r, path)
	save(t, path, []byte("START WAL LOCATION: 0/400030\n"))
	for _, leadership := range everyProof() {
		got, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path, Leadership: leadership})
		if err != nil || got.Outcome != archive.Quarantined || got.Key == result.Key {
			t.Errorf("one that differs: %+v, %v", got, err)
		}
	}
	if got, err := r.BackupHistory(t.Context(), result.Key); err != nil || string(got) != "START WAL LOCATION: 0/400028\n" {
		t.Errorf("what was archived first reads %q, %v", got, err)
	}
	if got, want := alarmKinds(t, r), []string{archive.AlarmQuarantine + " " + filepath.Base(path)}; !cmp.Equal(got, want) {
		t.Errorf("alarms are %q, want %q", got, want)
	}
	if n := len(keys(t, store)); n != 3 { // the file, the other in quarantine, one alarm
		t.Errorf("%d objects: %q", n, keys(t, store))
	}
}

// everyProof gives all that asking for the leader can come to.
func everyProof() []func(context.Context) (archive.Proof, error) {
	out := []func(context.Context) (archive.Proof, error){nil}
	for _, p := range []archive.Proof{archive.Leader, archive.NotLeader, archive.Unknown} {
		out = append(out, func(context.Context) (archive.Proof, error) { return p, nil })
	}
	return append(out, func(context.Context) (archive.Proof, error) { return archive.Leader, errors.New("connection refused") })
}

// TestConflicts: a segment that differs from the archived one, by who pushes it.
func TestConflicts(t *testing.T) {
	down := errors.New("connection refused")
	proof := func(p archive.Proof, err error) func(context.Context) (archive.Proof, error) {
		return func(context.Context) (archive.Proof, error) { return p, err }
	}
	for _, c := range []struct {
		name       string
		leadership func(context.Context) (archive.Proof, error)
		confirm    error         // by the leader's server
		proof      archive.Proof // of the error; Leader: no error
	}{
		{"the proved leader", proof(archive.Leader, nil), nil, archive.Leader},
		{"a copy of the leader", proof(archive.Leader, nil), errors.New("the leader has other WAL"), archive.Unknown},
		{"an ex-leader", proof(archive.NotLeader, nil), nil, archive.NotLeader},
		{"nobody knows", proof(archive.Unknown, nil), nil, archive.Unknown},
		{"the DCS is down", proof(archive.Leader, down), nil, archive.Unknown},
		{"no DCS", nil, nil, archive.Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, store := repotest.New(t)
			dir := t.TempDir()
			first, second := filled(1, 4, 4), newBuilder(1, 4)
			second.fill = 1
			second.until(segSize.Start(5))
			plain := push(t, r, first.save(t, dir, 4, ""))
			path := second.save(t, dir, 4, "")
			opts := archive.PushOptions{Path: path, Member: "pg2", Leadership: c.leadership}
			opts.Confirm = func(_ context.Context, of string, length int64) error {
				if of != path || length != int64(segSize) {
					t.Errorf("asked about %d bytes of %s", length, of)
				}
				return c.confirm
			}
			result, err := archive.Push(t.Context(), r, opts)
			again, errAgain := archive.Push(t.Context(), r, opts)
			kind := archive.AlarmQuarantine
			if c.proof == archive.Leader {
				kind = archive.AlarmConflict
				if err != nil || result.Outcome != archive.StoredBeside || result.Key != plain.Key+"~"+digestOf(t, r, result.Key) {
					t.Errorf("got %+v, %v", result, err)
				}
				if errAgain != nil || again.Outcome != archive.AlreadyArchived || again.Key != result.Key {
					t.Errorf("pushed again: %+v, %v", again, errAgain)
				}
			} else {
				for _, err := range []error{err, errAgain} {
					var conflict *archive.ConflictError
					if !errors.As(err, &conflict) || conflict.Proof != c.proof || finding.Hint(err) == "" || !errors.Is(err, repo.ErrConflict) {
						t.Fatalf("error is %v", err)
					}
					if !bytes.Equal(readBack(t, r, conflict.Quarantine), second.segments[4]) {
						t.Error("quarantine does not hold the content")
					}
				}
			}
			if got, want := alarmKinds(t, r), []string{kind + " " + first.name(4)}; !cmp.Equal(got, want) {
				t.Errorf("alarms are %q, want %q", got, want)
			}
			if !bytes.Equal(readBack(t, r, plain.Key), first.segments[4]) {
				t.Error("what was archived first has changed")
			}
			if n := len(keys(t, store)); n != 3 {
				t.Errorf("objects are %q", keys(t, store))
			}
			// The first one's pusher has it archived all the same.
			if got := push(t, r, first.save(t, dir, 4, "")); got.Outcome != archive.AlreadyArchived {
				t.Errorf("the first pushed again: %+v", got)
			}
		})
	}
}

func digestOf(t testing.TB, r *repo.Repo, key string) string {
	t.Helper()
	h, err := r.ReadWALHeader(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return h.Digest.String()
}

// TestADamagedObjectDoesNotBlockTheLeader: what lies under the key cannot be
// read, so it is not known to be this segment.
func TestADamagedObjectDoesNotBlockTheLeader(t *testing.T) {
	r, store := openMem(t)
	dir := t.TempDir()
	b := filled(1, 4, 4)
	path := b.save(t, dir, 4, "")
	plain := push(t, r, path)
	flip(t, store, plain.Key, 20, 1)
	if _, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path}); !errors.Is(err, repo.ErrConflict) {
		t.Errorf("error is %v", err)
	}
	result, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path, Leadership: leads})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readBack(t, r, result.Key), b.segments[4]) {
		t.Error("content is not the segment's")
	}
	dest := filepath.Join(dir, "RECOVERYXLOG")
	if err := get(t, r, pg.FirstTimeline(), b.name(4), dest); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(dest); !bytes.Equal(got, b.segments[4]) {
		t.Error("the damaged object's neighbour is not served")
	}
}

func TestTheOwnerIsAskedFirst(t *testing.T) {
	r, store := repotest.New(t)
	dir := t.TempDir()
	b := filled(1, 4, 4)
	foreign := func(context.Context) error { return archive.ErrForeignOwner }
	for _, path := range []string{
		b.save(t, dir, 4, ""), saveHistory(t, dir, pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x400000}}}),
		save(t, filepath.Join(dir, b.name(4)+".00000028.backup"), []byte("x")),
	} {
		if _, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path, CheckOwner: foreign}); !errors.Is(err, archive.ErrForeignOwner) {
			t.Errorf("%s: error is %v", path, err)
		}
	}
	if k := keys(t, store); len(k) != 0 {
		t.Errorf("%q was stored", k)
	}
}

func TestAnAlarmIsOverOnceItIsAcknowledged(t *testing.T) {
	r, _ := repotest.New(t)
	if err := archive.Raise(t.Context(), r, archive.Alarm{Kind: archive.AlarmDamage, Subject: "a", Text: "bad"}); err != nil {
		t.Fatal(err)
	}
	all, err := archive.Alarms(t.Context(), r)
	if err != nil || len(all) != 1 || all[0].Acknowledged {
		t.Fatalf("alarms are %+v, %v", all, err)
	}
	if err := archive.Acknowledge(t.Context(), r, all[0].ID, "dba", "replaced the disk"); err != nil {
		t.Fatal(err)
	}
	if err := archive.Acknowledge(t.Context(), r, all[0].ID+1, "dba", ""); err == nil {
		t.Error("an alarm that does not exist was acknowledged")
	}
	s, err := archive.ReadStatus(t.Context(), r, archive.LineageOptions{})
	if err != nil || len(s.Alarms) != 0 {
		t.Errorf("alarms are %+v, %v", s.Alarms, err)
	}
	if all, _ := archive.Alarms(t.Context(), r); !all[0].Acknowledged || all[0].Text != "bad" {
		t.Errorf("alarms are %+v", all)
	}
}

func TestAnEventThatCannotBeReadIsAnAlarm(t *testing.T) {
	r, store := openMem(t)
	if err := archive.Raise(t.Context(), r, archive.Alarm{Kind: archive.AlarmDamage, Subject: "a", Text: "bad"}); err != nil {
		t.Fatal(err)
	}
	for o := range store.List(t.Context(), "", "") {
		flip(t, store, o.Key, 40, 1)
	}
	all, err := archive.Alarms(t.Context(), r)
	if err != nil || len(all) != 1 || all[0].Kind != archive.AlarmUnreadable {
		t.Errorf("alarms are %+v, %v", all, err)
	}
}

func TestADamagedHistoryInTheArchiveIsSaid(t *testing.T) {
	r, store := openMem(t)
	path := saveHistory(t, t.TempDir(), pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x400000}}})
	key := push(t, r, path).Key
	flip(t, store, key, 70, 1)
	for range 2 {
		_, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path})
		if !errors.Is(err, repo.ErrCorrupt) || !strings.Contains(err.Error(), key) || finding.Hint(err) == "" {
			t.Errorf("error is %v, hint %q", err, finding.Hint(err))
		}
	}
	if got := alarmKinds(t, r); len(got) != 1 {
		t.Errorf("alarms are %q", got)
	}
}

func TestTheOwnerDecidesBeforeDamageIsSaid(t *testing.T) {
	r, store := repotest.New(t)
	b := filled(1, 4, 4)
	b.segments[4][300_000] ^= 4
	_, err := archive.Push(t.Context(), r, archive.PushOptions{
		Path:       b.save(t, t.TempDir(), 4, ""),
		CheckOwner: func(context.Context) error { return archive.ErrForeignOwner },
	})
	if !errors.Is(err, archive.ErrForeignOwner) || len(keys(t, store)) != 0 {
		t.Errorf("error is %v, objects %q", err, keys(t, store))
	}
}

func TestTheArchiveTellsTheSegmentSize(t *testing.T) {
	for _, n := range []pg.SegmentNumber{4, 5000} { // the latter has a high part in its name
		r, _ := repotest.New(t)
		if _, err := archive.SegmentSize(t.Context(), r); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("an empty archive: %v", err)
		}
		b := filled(1, n, n)
		dir := t.TempDir()
		backup := save(t, filepath.Join(dir, b.name(n)+".00000028.backup"), []byte("x"))
		path := b.save(t, dir, n, "")
		push(t, r, backup)
		push(t, r, path)
		if got, err := archive.SegmentSize(t.Context(), r); err != nil || got != segSize {
			t.Errorf("segment %d: size is %d, %v", n, got, err)
		}
	}
}

func TestLargeSegments(t *testing.T) {
	r, _ := repotest.New(t)
	b := &builder{size: 128 << 20, timeline: 1, system: repotest.Cluster.SystemID, segments: map[pg.SegmentNumber][]byte{}}
	b.at = b.size.Start(1)
	b.insert(1)
	at := b.commit(701, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	b.switchSegment()
	push(t, r, b.save(t, t.TempDir(), 1, ""))
	got, err := findTarget(t, r, pg.FirstTimeline(), b.size, b.size.Start(1), archive.Target{XID: 701})
	if err != nil || got.Start != at {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestPartialFilesThatDiffer(t *testing.T) {
	r, _ := repotest.New(t)
	dir := t.TempDir()
	one, other := newBuilder(1, 4), newBuilder(1, 4)
	one.until(segSize.Start(4) + 100_000)
	other.until(segSize.Start(4) + 200_000)
	plain := push(t, r, one.save(t, dir, 4, ".partial"))
	path := other.save(t, dir, 4, ".partial")
	for _, leadership := range everyProof() {
		result, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path, Leadership: leadership})
		if err != nil || result.Key == plain.Key || result.Outcome != archive.Quarantined {
			t.Fatalf("got %+v, %v", result, err)
		}
		if !bytes.Equal(readBack(t, r, result.Key)[:200_000], other.segments[4][:200_000]) {
			t.Error("content is not the other's")
		}
	}
	if !bytes.Equal(readBack(t, r, plain.Key)[:100_000], one.segments[4][:100_000]) {
		t.Error("what was archived first has changed")
	}
	if got, want := alarmKinds(t, r), []string{archive.AlarmQuarantine + " " + one.name(4) + ".partial"}; !cmp.Equal(got, want) {
		t.Errorf("alarms are %q, want %q", got, want)
	}
}

// TestAnArchivedTimelineIsNoExcuseForDamage: the server wrote on past a segment that
// has lost its end, and somebody else's timeline forked off inside that segment.
// What is left of it is not all there was.
func TestAnArchivedTimelineIsNoExcuseForDamage(t *testing.T) {
	b := newBuilder(1, 4)
	b.until(segSize.Start(4) + 100_000)
	fork := b.at
	b.until(segSize.Start(6))
	lost := slices.Clone(b.segments[4])
	clear(lost[200_000:])
	for _, followed := range []bool{true, false} {
		t.Run(fmt.Sprintf("the next segment is there: %v", followed), func(t *testing.T) {
			r, _ := repotest.New(t)
			push(t, r, saveHistory(t, t.TempDir(), pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: fork}}}))
			dir := t.TempDir()
			if followed {
				b.save(t, dir, 5, "")
			}
			result, err := archive.Push(t.Context(), r, archive.PushOptions{Path: save(t, filepath.Join(dir, b.name(4)), lost)})
			if damaged := (*archive.DamagedError)(nil); errors.As(err, &damaged) != followed {
				t.Errorf("%s: %v", result.Outcome, err)
			}
			if !followed && (err != nil || result.Name != b.name(4)+".partial") {
				t.Errorf("stored as %s: %v", result.Name, err)
			}
		})
	}
}
