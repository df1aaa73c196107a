package catchup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// delta says what of a backup's files the directory lacks.
type delta struct {
	tree      *tree
	layout    pg.Layout
	blockSize int64
	segBlocks uint32 // blocks of a full segment file of a relation

	// changes is what either branch changed; nil: unknown, and every page is
	// compared with the hash that the repository has of it.
	changes *wal.BlockMap
	// grown gives the sizes that relation files had which are to grow: a run that
	// was killed has left them longer, with pages that are not there yet. Files of
	// a size of 0 may have been missing. nil: nothing was written yet.
	grown map[string]int64
}

// step is what is to be done with one file of the backup.
type step struct {
	kind  stepKind
	size  int64    // the directory's file, -1 if there is none
	pages []uint64 // bit p: page p is wanted; of stepPages
	want  int64    // bytes that are wanted; of stepPages and stepFile
}

type stepKind uint8

const (
	stepKeep    stepKind = iota // the directory's is right, or its own
	stepFile                    // the whole file
	stepCompare                 // the whole file, unless it is equal
	stepPages                   // some pages, none perhaps, and the length
	stepHashes                  // the pages whose hash differs
)

// of decides about one file.
func (d *delta) of(e *repo.Entry) step {
	s := step{kind: stepFile, size: d.tree.size(e.Path), want: e.Size}
	if operators(e.Path) {
		if s.size >= 0 {
			s.kind = stepKeep
		}
		return s
	}
	if e.Path == pg.ControlPath {
		return s // it is put aside
	}
	rel, main := d.mainFork(e)
	if was, ok := d.grown[e.Path]; ok && main {
		s.size = min(s.size, was)
	}
	switch {
	case s.size < 0:
		return s
	case !main || d.changes == nil && e.Map == nil:
		if s.size == e.Size {
			s.kind = stepCompare
		}
		return s
	case d.changes == nil:
		s.kind = stepHashes
		return s
	}
	return d.relation(e, rel, s)
}

// mainFork says which main fork a file is of, if it is of one.
func (d *delta) mainFork(e *repo.Entry) (pg.RelFile, bool) {
	class := d.layout.Classify(e.Path, false)
	return class.Rel, class.Kind == pg.KindRelation && class.Rel.Fork == pg.MainFork
}

// relation decides about the file of a main fork by the block maps.
func (d *delta) relation(e *repo.Entry, f pg.RelFile, s step) step {
	db := wal.Database{Tablespace: f.Tablespace, Database: f.Relation.Database}
	if d.changes.Whole(db) {
		return s
	}
	s.kind, s.want = stepPages, 0
	total, have := pagesOf(e.Size, d.blockSize), s.size/d.blockSize // of a torn last page nothing
	changed := d.changes.Recorded(wal.Relation{Tablespace: f.Tablespace, Database: f.Relation.Database, Number: f.Number}, wal.Main)
	first := f.FirstBlock(d.segBlocks)
	set := func(p int64) {
		if s.pages == nil {
			s.pages = make([]uint64, (total+63)/64)
		}
		if s.pages[p/64]>>(p%64)&1 == 0 {
			s.pages[p/64] |= 1 << (p % 64)
			s.want += min(d.blockSize, e.Size-p*d.blockSize)
		}
	}
	for b := range changed.Blocks(first, first+uint32(total)) {
		set(int64(b - first))
	}
	from := have
	if limit, ok := changed.Limit(); ok {
		from = min(from, max(0, int64(limit)-int64(first)))
	}
	for p := from; p < total; p++ {
		set(p)
	}
	if e.Map == nil && (s.want > 0 || s.size != e.Size) {
		s.kind, s.want = stepFile, e.Size // a small file is stored whole
	}
	return s
}

func pagesOf(size, blockSize int64) int64 { return (size + blockSize - 1) / blockSize }

// wanted reports whether a page is wanted.
func (s *step) wanted(page uint32) bool { return s.pages != nil && s.pages[page/64]>>(page%64)&1 == 1 }

// wanting gives what repo.Want.Pages is to be.
func (s *step) wanting() func(uint32) bool {
	if s.kind == stepPages {
		return s.wanted
	}
	return nil
}

// serverFiles and serverDirs are the names at the top of a data directory that
// are a server's (subdirs, initdb.c). A log directory that somebody called pg_log
// is not.
var (
	serverFiles = []string{"PG_VERSION", "backup_label", "tablespace_map"}
	serverDirs  = []string{
		"base", "global", "pg_commit_ts", "pg_dynshmem", "pg_logical", "pg_multixact", "pg_notify", "pg_replslot", "pg_serial",
		"pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase", "pg_wal", "pg_xact",
	}
)

// operators reports whether a path belongs to whoever runs the server: the
// configuration above all. What the directory has of it stays.
func operators(path string) bool {
	top, _, below := strings.Cut(path, "/")
	return !serversOwn(top, below)
}

// serversOwn reports whether a name at the top of a data directory is the
// server's.
func serversOwn(top string, dir bool) bool {
	if dir {
		return slices.Contains(serverDirs, top)
	}
	return slices.Contains(serverFiles, top)
}

// newDelta looks into the directories of a backup to be converged to.
func newDelta(t *tree, b *repo.Backup, segBlocks uint32, changes *wal.BlockMap, grown map[string]int64) (*delta, error) {
	if segBlocks == 0 && changes != nil {
		return nil, fmt.Errorf("the number of blocks in a segment file is not known")
	}
	version := pg.TablespaceVersionDir(b.Major(), b.CatalogVersion)
	return &delta{
		tree: t, layout: pg.Layout{Major: b.Major(), VersionDir: version}, blockSize: int64(b.BlockSize), segBlocks: segBlocks,
		changes: changes, grown: grown,
	}, nil
}
