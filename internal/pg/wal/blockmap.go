package wal

import (
	"bytes"
	"cmp"
	"iter"
	"maps"
	"slices"
)

// Database is the part of a database that lies in one tablespace: one directory.
type Database struct {
	Tablespace uint32
	Database   uint32
}

// RelationFork names one fork of one relation.
type RelationFork struct {
	Relation Relation
	Fork     Fork
}

func compareDatabases(a, b Database) int {
	return cmp.Or(cmp.Compare(a.Tablespace, b.Tablespace), cmp.Compare(a.Database, b.Database))
}

func compareForks(a, b RelationFork) int {
	return cmp.Or(
		compareDatabases(a.Relation.database(), b.Relation.database()),
		cmp.Compare(a.Relation.Number, b.Relation.Number),
		cmp.Compare(a.Fork, b.Fork))
}

func (r Relation) database() Database { return Database{r.Tablespace, r.Database} }

// BlockMap is what a stretch of WAL changed: per relation fork a limit, the
// lowest length in blocks to which the fork was cut (0 if it was created or
// dropped), from which on every block counts as changed for ever, and the
// blocks before it that were referenced; and the databases that were created or
// dropped as a whole.
//
// A map is a plain set: neither the order of what is put into it nor the way in
// which WAL was divided among maps that are merged shows in the result.
//
// The zero value is empty and ready. A map may be read by many goroutines at
// once, but not while one changes it. Memory is at most 8 KiB for each 65,536
// blocks of a fork of which one is changed, far less where few are, so ten
// million blocks need some MB.
type BlockMap struct {
	forks map[RelationFork]*blocks
	whole map[Database]struct{}

	// recent makes Mark quick: consecutive references name few forks.
	recent [64]recentFork
}

type recentFork struct {
	key    RelationFork
	blocks *blocks
}

// fork gives the blocks of a fork, which it adds if need be. rel is compared field
// by field, as a Record's has just been written: a wider look waits for that.
func (m *BlockMap) fork(rel *Relation, fork Fork) *blocks {
	slot := &m.recent[(rel.Number^uint32(fork)<<3)%uint32(len(m.recent))]
	if k := &slot.key.Relation; slot.blocks != nil && slot.key.Fork == fork &&
		k.Number == rel.Number && k.Database == rel.Database && k.Tablespace == rel.Tablespace {
		return slot.blocks
	}
	key := RelationFork{*rel, fork}
	b := m.forks[key]
	if b == nil {
		if m.forks == nil {
			m.forks = make(map[RelationFork]*blocks)
		}
		b = &blocks{limit: noBlock}
		m.forks[key] = b
	}
	*slot = recentFork{key, b}
	return b
}

// Mark notes that a block was changed. Block 4,294,967,295 does not exist in
// PostgreSQL and is ignored.
func (m *BlockMap) Mark(rel Relation, fork Fork, block uint32) {
	if block != noBlock {
		m.fork(&rel, fork).add(block)
	}
}

// Truncate notes that a fork was cut to so many blocks, 0 if it was created or
// dropped: all blocks from there on count as changed.
func (m *BlockMap) Truncate(rel Relation, fork Fork, length uint32) {
	if length != noBlock {
		m.fork(&rel, fork).truncate(length)
	}
}

// MarkWhole notes that a database was created or dropped as a whole.
func (m *BlockMap) MarkWhole(db Database) {
	if m.whole == nil {
		m.whole = make(map[Database]struct{})
	}
	m.whole[db] = struct{}{}
}

// Merge adds the changes of other WAL, earlier or later. o stays as it is and
// shares nothing with m afterwards.
func (m *BlockMap) Merge(o *BlockMap) {
	for db := range o.whole {
		m.MarkWhole(db)
	}
	for key, from := range o.forks {
		m.fork(&key.Relation, key.Fork).merge(from)
	}
}

// Empty reports whether the map holds no change.
func (m *BlockMap) Empty() bool { return len(m.forks) == 0 && len(m.whole) == 0 }

// Whole reports whether the database was created or dropped as a whole: every
// file in its directory counts as changed.
func (m *BlockMap) Whole(db Database) bool {
	_, ok := m.whole[db]
	return ok
}

// Databases gives the databases marked whole, in order of tablespace and database.
func (m *BlockMap) Databases() []Database {
	return slices.SortedFunc(maps.Keys(m.whole), compareDatabases)
}

// Changed reports whether a block must be taken as changed. Forks other than
// the main one always must: their pages change without a reference in WAL.
func (m *BlockMap) Changed(rel Relation, fork Fork, block uint32) bool {
	return fork != Main || m.Whole(rel.database()) || m.Recorded(rel, fork).Changed(block)
}

// Recorded gives what WAL says about one fork, and nothing of the marks and
// rules of [BlockMap.Changed]. It is a view, valid until the map changes.
func (m *BlockMap) Recorded(rel Relation, fork Fork) Changes {
	return Changes{m.forks[RelationFork{rel, fork}]}
}

// Forks gives every fork with changes, in order of tablespace, database,
// relation and fork.
func (m *BlockMap) Forks() iter.Seq2[RelationFork, Changes] {
	return func(yield func(RelationFork, Changes) bool) {
		for _, key := range slices.SortedFunc(maps.Keys(m.forks), compareForks) {
			if !yield(key, Changes{m.forks[key]}) {
				return
			}
		}
	}
}

// Equal reports whether both maps hold the same.
func (m *BlockMap) Equal(o *BlockMap) bool { return bytes.Equal(m.Encode(), o.Encode()) }

// Changes are the changed blocks of one fork. The zero value has none.
type Changes struct{ b *blocks }

// Limit gives the length in blocks from which on every block counts as changed,
// and whether there is one.
func (c Changes) Limit() (uint32, bool) {
	if c.b == nil || c.b.limit == noBlock {
		return 0, false
	}
	return c.b.limit, true
}

// Changed reports whether the block was referenced or lies at or past the limit.
func (c Changes) Changed(block uint32) bool {
	return c.b != nil && (block >= c.b.limit || c.b.has(block))
}

// Count is the number of blocks referenced before the limit.
func (c Changes) Count() int {
	if c.b == nil {
		return 0
	}
	n := 0
	for i := range c.b.chunks {
		n += c.b.chunks[i].count()
	}
	return n
}

// Blocks gives the blocks from low to before high that were referenced, in
// order. Those from the limit on are not given, but count as changed, all of them.
func (c Changes) Blocks(low, high uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		if c.b != nil {
			c.b.each(low, high, yield)
		}
	}
}
