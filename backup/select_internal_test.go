package backup

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

const (
	blk    = 8192
	relseg = 131072
)

func TestChangedRuns(t *testing.T) {
	rel := wal.Relation{Tablespace: 1663, Database: 5, Number: 16384}
	for _, c := range []struct {
		name             string
		blocks           []uint32
		limit            int // -1: none
		low, high, grown uint32
		want             [][2]uint32
	}{
		{name: "nothing", limit: -1, high: 100, grown: 100},
		{name: "scattered", blocks: []uint32{3, 7, 99}, limit: -1, high: 100, grown: 100, want: [][2]uint32{{3, 4}, {7, 8}, {99, 100}}},
		{name: "the first, contiguous", blocks: []uint32{0, 1, 2, 5}, limit: -1, high: 100, grown: 100, want: [][2]uint32{{0, 3}, {5, 6}}},
		{name: "outside of the range", blocks: []uint32{9, 10, 19, 20}, limit: -1, low: 10, high: 20, grown: 100, want: [][2]uint32{{10, 11}, {19, 20}}},
		{name: "grown", blocks: []uint32{4}, limit: -1, high: 20, grown: 10, want: [][2]uint32{{4, 5}, {10, 20}}},
		{name: "grown right behind a change", blocks: []uint32{9}, limit: -1, high: 20, grown: 10, want: [][2]uint32{{9, 20}}},
		{name: "cut and grown again", blocks: []uint32{4}, limit: 6, high: 20, grown: 20, want: [][2]uint32{{4, 5}, {6, 20}}},
		{name: "cut before the range", limit: 3, low: 10, high: 20, grown: 100, want: [][2]uint32{{10, 20}}},
		{name: "cut behind the range", limit: 30, low: 10, high: 20, grown: 100},
		{name: "created", limit: 0, high: 5, grown: 100, want: [][2]uint32{{0, 5}}},
		{name: "all of it was beyond the old end", limit: -1, low: 10, high: 20, grown: 2, want: [][2]uint32{{10, 20}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := new(wal.BlockMap)
			for _, b := range c.blocks {
				m.Mark(rel, wal.Main, b)
			}
			if c.limit >= 0 {
				m.Truncate(rel, wal.Main, uint32(c.limit))
			}
			var got [][2]uint32
			for begin, end := range changedRuns(m.Recorded(rel, wal.Main), c.low, c.high, c.grown) {
				got = append(got, [2]uint32{begin, end})
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			for range changedRuns(m.Recorded(rel, wal.Main), c.low, c.high, c.grown) {
				break // an early end is allowed
			}
		})
	}
}

// fileOf makes a file as scan does.
func fileOf(path string, size int64) *file {
	layout := pg.Layout{Major: 15, VersionDir: "PG_15_202209061"}
	return &file{class: layout.Classify(path, false), entry: repo.Entry{Path: path, Size: size, File: 1}}
}

func TestHowMuchOfAFileIsStored(t *testing.T) {
	rel := wal.Relation{Tablespace: 1663, Database: 5, Number: 16384}
	mapped := func(size int64) *repo.Entry { return &repo.Entry{Size: size, Map: &repo.MapRef{Generation: 1}} }
	bundled := func(size int64) *repo.Entry {
		return &repo.Entry{Size: size, Bundle: &repo.BundleRef{}, Digest: repo.DigestOf([]byte("x"))}
	}
	const large = 100 * blk
	for _, c := range []struct {
		name string
		path string
		size int64
		base *repo.Entry
		mark func(*wal.BlockMap)
		want portion
	}{
		{name: "not in the parent", path: "base/5/16384", size: large, want: storeAll},
		{name: "untouched", path: "base/5/16384", size: large, base: mapped(large), want: keepAll},
		{name: "small and untouched", path: "base/5/16384", size: blk, base: bundled(blk), want: keepAll},
		{name: "a page changed", path: "base/5/16384", size: large, base: mapped(large), mark: func(m *wal.BlockMap) { m.Mark(rel, wal.Main, 7) }, want: storeChanged},
		{name: "a page of another segment changed", path: "base/5/16384.1", size: large, base: mapped(large), mark: func(m *wal.BlockMap) { m.Mark(rel, wal.Main, 7) }, want: keepAll},
		{name: "a page of this segment changed", path: "base/5/16384.1", size: large, base: mapped(large), mark: func(m *wal.BlockMap) { m.Mark(rel, wal.Main, relseg+7) }, want: storeChanged},
		{name: "small, and a page changed", path: "base/5/16384", size: blk, base: bundled(blk), mark: func(m *wal.BlockMap) { m.Mark(rel, wal.Main, 0) }, want: storeAll},
		{name: "grown", path: "base/5/16384", size: large, base: mapped(large - blk), want: storeChanged},
		{name: "shorter", path: "base/5/16384", size: large, base: mapped(large + blk), want: storeChanged},
		{name: "shorter, and small now", path: "base/5/16384", size: blk, base: mapped(large), want: storeAll},
		{name: "small before", path: "base/5/16384", size: large, base: bundled(blk), want: storeAll},
		{name: "empty before", path: "base/5/16384", size: large, base: &repo.Entry{}, want: storeAll},
		{name: "empty now", path: "base/5/16384", size: 0, base: mapped(large), want: storeAll},
		{name: "cut, and grown to its old length", path: "base/5/16384", size: large, base: mapped(large), mark: func(m *wal.BlockMap) { m.Truncate(rel, wal.Main, 50) }, want: storeChanged},
		{name: "cut to its present length", path: "base/5/16384", size: large, base: mapped(large), mark: func(m *wal.BlockMap) { m.Truncate(rel, wal.Main, 100) }, want: keepAll},
		{name: "dropped, and its number used again", path: "base/5/16384", size: large, base: mapped(large), mark: func(m *wal.BlockMap) { m.Truncate(rel, wal.Main, 0) }, want: storeAll},
		{name: "all of a segment was cut", path: "base/5/16384.1", size: large, base: mapped(large), mark: func(m *wal.BlockMap) { m.Truncate(rel, wal.Main, relseg) }, want: storeAll},
		{name: "its database was made anew", path: "base/5/16384", size: large, base: mapped(large), mark: func(m *wal.BlockMap) { m.MarkWhole(wal.Database{Tablespace: 1663, Database: 5}) }, want: storeAll},
		{name: "another database was made anew", path: "base/5/16384", size: large, base: mapped(large), mark: func(m *wal.BlockMap) { m.MarkWhole(wal.Database{Tablespace: 1663, Database: 6}) }, want: keepAll},
		{name: "a visibility map without a reference", path: "base/5/16384_vm", size: blk, base: bundled(blk), want: storeIfNew},
		{name: "a large free space map", path: "base/5/16384_fsm", size: large, base: &repo.Entry{Size: large, Map: &repo.MapRef{}, Digest: repo.DigestOf([]byte("x"))}, want: storeIfNew},
		{name: "an init fork", path: "base/5/16384_init", size: blk, base: bundled(blk), want: storeIfNew},
		{name: "a commit log", path: "pg_xact/0000", size: blk, base: bundled(blk), want: storeIfNew},
		{name: "a relation map", path: "base/5/pg_filenode.map", size: 512, base: bundled(512), want: storeIfNew},
		{name: "a shared relation", path: "global/1260", size: blk, base: bundled(blk), want: keepAll},
		{name: "a file where there was a directory", path: "base/5/16384", size: large, base: &repo.Entry{Dir: true}, want: storeAll},
		{name: "a tablespace's relation", path: "pg_tblspc/16400/PG_15_202209061/5/16384", size: large, base: mapped(large),
			mark: func(m *wal.BlockMap) {
				m.Mark(wal.Relation{Tablespace: 16400, Database: 5, Number: 16384}, wal.Main, 3)
			}, want: storeChanged},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := new(wal.BlockMap)
			if c.mark != nil {
				c.mark(m)
			}
			s := &selector{blocks: m, block: blk, segment: relseg}
			if got := s.portion(fileOf(c.path, c.size), c.base); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestWhereWALTellsNothingNoPageIsKeptUnread(t *testing.T) {
	mapped := &repo.Entry{Size: 100 * blk, Map: &repo.MapRef{}}
	bundled := &repo.Entry{Size: blk, Bundle: &repo.BundleRef{}, Digest: repo.DigestOf([]byte("x"))}
	for _, c := range []struct {
		size  int64
		base  *repo.Entry
		fresh bool
		want  portion
	}{
		{size: 100 * blk, base: mapped, want: storeChanged},
		{size: 100 * blk, base: mapped, fresh: true, want: storeAll},
		{size: 100 * blk, want: storeAll},
		{size: blk, base: bundled, want: storeIfNew},
		{size: blk, base: bundled, fresh: true, want: storeAll},
		{size: blk, base: mapped, want: storeAll},
	} {
		s := &selector{block: blk, segment: relseg, fresh: map[string]bool{"base/5": c.fresh}}
		if got := s.portion(fileOf("base/5/16384", c.size), c.base); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}

func TestADatabaseMadeSinceTheParentIsFresh(t *testing.T) {
	parent := repotest.Backup(repotest.ID(1))
	before := parent.Started.Add(-time.Hour)
	with := func(path string, then, now time.Time) *file {
		f := fileOf(path, 3)
		f.entry.Modified = now
		if !then.IsZero() {
			f.base = &repo.Entry{Modified: then}
		}
		return f
	}
	files := []*file{
		with("PG_VERSION", before, before),
		with("base/1/PG_VERSION", before, before), fileOf("base/1/1259", blk),
		with("base/5/PG_VERSION", before, before.Add(time.Minute)), fileOf("base/5/1259", blk),
		with("base/6/PG_VERSION", time.Time{}, before), fileOf("base/6/1259", blk),
		with("base/7/PG_VERSION", parent.Started.Add(-time.Second), parent.Started.Add(-time.Second)), fileOf("base/7/1259", blk),
		fileOf("base/8/1259", blk), // a directory that is being made
		fileOf("global/1260", blk),
	}
	want := map[string]bool{"base/1": false, "base/5": true, "base/6": true, "base/7": true, "base/8": true}
	if diff := cmp.Diff(want, freshDatabases(&parent, files)); diff != "" {
		t.Error(diff)
	}
}
