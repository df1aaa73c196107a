package backup

import (
	"iter"
	"path"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// How much of a file an incremental backup stores. The zero value is what a
// full backup does with every file.
type portion uint8

const (
	storeAll     portion = iota // read whole and stored
	storeIfNew                  // read whole, and stored if its content is not the parent's
	storeChanged                // pages that changed are stored, the others stay where the parent has them
	keepAll                     // not read: it stays where the parent has it
)

// selector decides what becomes of each file of an incremental backup. It does
// not change while files are copied.
type selector struct {
	parent  *repo.Backup
	blocks  *wal.BlockMap // nil: page LSNs tell
	block   int64         // size of a page
	segment uint32        // blocks of a relation's segment file
	// fresh are the database directories that may not be the parent's, although
	// their names are. Only used with page LSNs: WAL tells of it.
	fresh map[string]bool
}

// portion decides about one file. base is the parent's entry of the same path,
// nil if it has none.
//
// Only pages of main forks are taken block by block: visibility map and free
// space map change without a reference in WAL, and everything else is no pages.
func (s *selector) portion(f *file, base *repo.Entry) portion {
	switch {
	case f.entry.Dir || base == nil || base.Dir:
		return storeAll
	case !f.mainFork():
		if base.Digest.IsZero() {
			return storeAll
		}
		return storeIfNew
	case s.blocks == nil:
		return s.portionByLSN(f, base)
	}
	size := f.entry.Size
	if size == 0 || base.Size == 0 || s.blocks.Whole(database(f.class.Rel)) {
		return storeAll
	}
	c := s.changed(f)
	first := f.class.Rel.FirstBlock(s.segment)
	if size == base.Size {
		if !some(c.Blocks(first, s.end(f, size))) && !reaches(c, s.end(f, size)) {
			return keepAll
		}
	}
	if limit, ok := c.Limit(); ok && limit <= first {
		return storeAll
	}
	if size < smallFile || base.Map == nil {
		return storeAll
	}
	return storeChanged
}

// portionByLSN is portion where pages tell themselves.
func (s *selector) portionByLSN(f *file, base *repo.Entry) portion {
	switch {
	case f.entry.Size == 0 || base.Size == 0 || s.fresh[path.Dir(f.entry.Path)]:
		return storeAll
	case f.entry.Size < smallFile && !base.Digest.IsZero():
		return storeIfNew
	case f.entry.Size < smallFile || base.Map == nil:
		return storeAll
	}
	return storeChanged
}

// end gives the block behind the last one of a file of so many bytes.
func (s *selector) end(f *file, size int64) uint32 {
	return f.class.Rel.FirstBlock(s.segment) + uint32(size/s.block)
}

func (s *selector) changed(f *file) wal.Changes {
	return s.blocks.Recorded(wal.Relation(f.class.Rel.Relation), wal.Main)
}

// runs gives the runs of blocks of f, counted in the relation's fork, that are
// to be stored, of those from low to before high. base is the parent's entry.
func (s *selector) runs(f *file, base *repo.Entry, low, high uint32) iter.Seq2[uint32, uint32] {
	return changedRuns(s.changed(f), low, high, s.end(f, base.Size))
}

// touched reports whether a page between two bytes of the file may have to be
// stored.
func (s *selector) touched(f *file, from, to int64) bool {
	if s.blocks == nil {
		return true
	}
	for range s.runs(f, f.base, s.end(f, from), s.end(f, to)) {
		return true
	}
	return false
}

// changedRuns gives the runs of changed blocks from low to before high: their
// first block and the one behind their last. All blocks from grown on count.
func changedRuns(c wal.Changes, low, high, grown uint32) iter.Seq2[uint32, uint32] {
	return func(yield func(uint32, uint32) bool) {
		edge := min(high, max(low, grown)) // from where on all count
		if limit, ok := c.Limit(); ok {
			edge = min(edge, max(low, limit))
		}
		begin, end := low, low // the run so far
		for b := range c.Blocks(low, edge) {
			if b != end {
				if begin < end && !yield(begin, end) {
					return
				}
				begin = b
			}
			end = b + 1
		}
		if edge < high {
			if end != edge {
				if begin < end && !yield(begin, end) {
					return
				}
				begin = edge
			}
			end = high
		}
		if begin < end {
			yield(begin, end)
		}
	}
}

// reaches reports whether a fork was cut to less than end blocks.
func reaches(c wal.Changes, end uint32) bool {
	limit, ok := c.Limit()
	return ok && limit < end
}

func some(seq iter.Seq[uint32]) bool {
	for range seq {
		return true
	}
	return false
}

func database(r pg.RelFile) wal.Database {
	return wal.Database{Tablespace: r.Tablespace, Database: r.Database}
}
