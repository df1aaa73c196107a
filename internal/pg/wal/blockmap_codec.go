package wal

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"slices"
)

// Encoding of a BlockMap. All integers are unsigned varints in their shortest
// form; "gap" is the difference to the value before it in the same place, so
// that order is implied and small numbers prevail.
//
//	version (1)
//	number of whole databases; for each, in order: key of 2
//	number of forks; for each, in order: key of 4, limit, number of chunks
//	  for each chunk of 65,536 blocks, in order: index (the first) or gap-1,
//	    2*(number of blocks-1) + 1 if a bitmap follows, and then
//	    a list: the first block within the chunk, gap-1 for each one after it; or,
//	    only where that would take 8192 bytes or more,
//	    a bitmap of 8192 bytes: bit i%8 of byte i/8 is block i
//
// A key is (tablespace, database) or (tablespace, database, relation, fork). It is
// written as its first part's gap to the key before it; only where that gap is 0
// follows the next part as a gap, otherwise all further parts are absolute.
// Limit is 0 for none, else the limit plus 1. A fork has a limit or a block, and
// no block from the limit on.
const mapVersion = 1

// Encode gives the map's canonical form: equal maps have equal encodings. It has
// no checksum of its own, and is meant to be compressed.
func (m *BlockMap) Encode() []byte {
	b := []byte{mapVersion}
	b = binary.AppendUvarint(b, uint64(len(m.whole)))
	var prev [4]uint32
	for _, db := range m.Databases() {
		key := [4]uint32{db.Tablespace, db.Database}
		b = appendKey(b, prev[:2], key[:2])
		prev = key
	}
	keys := slices.DeleteFunc(slices.Collect(maps.Keys(m.forks)), func(k RelationFork) bool { return m.forks[k].empty() })
	slices.SortFunc(keys, compareForks)
	b = binary.AppendUvarint(b, uint64(len(keys)))
	prev = [4]uint32{}
	for _, k := range keys {
		key := [4]uint32{k.Relation.Tablespace, k.Relation.Database, k.Relation.Number, uint32(k.Fork)}
		b = appendKey(b, prev[:], key[:])
		prev = key
		b = m.forks[k].append(b)
	}
	return b
}

func appendKey(b []byte, prev, key []uint32) []byte {
	same := true
	for i, v := range key {
		if same {
			same = v == prev[i]
			v -= prev[i]
		}
		b = binary.AppendUvarint(b, uint64(v))
	}
	return b
}

func (b *blocks) empty() bool { return b.limit == noBlock && len(b.chunks) == 0 }

func (b *blocks) append(out []byte) []byte {
	out = binary.AppendUvarint(out, uint64(b.limit+1)) // none is 0 by overflow
	out = binary.AppendUvarint(out, uint64(len(b.chunks)))
	next := uint16(0)
	for i := range b.chunks {
		c := &b.chunks[i]
		out = binary.AppendUvarint(out, uint64(c.index-next))
		next = c.index + 1
		out = c.append(out)
	}
	return out
}

func (c *chunk) append(out []byte) []byte {
	head := uint64(c.count()-1) << 1
	if c.listLen() < bitmapLen {
		out = binary.AppendUvarint(out, head)
		next := uint16(0)
		c.each(0, chunkBlocks, func(n uint16) bool {
			out = binary.AppendUvarint(out, uint64(n-next))
			next = n + 1
			return true
		})
		return out
	}
	out = binary.AppendUvarint(out, head|1)
	// Lists in memory are far shorter than that: this one is a bitmap.
	for _, w := range c.bitmap {
		out = le.AppendUint64(out, w)
	}
	return out
}

// listLen is how many bytes the chunk takes as a list.
func (c *chunk) listLen() int {
	n, next := 0, uint16(0)
	c.each(0, chunkBlocks, func(v uint16) bool {
		n += max(1, (bits.Len16(v-next)+6)/7)
		next = v + 1
		return true
	})
	return n
}

// DecodeBlockMap is the inverse of [BlockMap.Encode]. What it accepts encodes to
// the same bytes again; all else is an [ErrCorrupt]. Memory is bounded by a small
// multiple of the encoding's length.
func DecodeBlockMap(b []byte) (*BlockMap, error) {
	d := decoder{b: b}
	m := new(BlockMap)
	if v := d.byte(); v != mapVersion {
		d.fail("version is %d, not %d", v, mapVersion)
	}
	var key [4]uint32
	for i, n := uint64(0), d.uvarint(1<<32); i < n && d.ok(); i++ {
		if d.key(key[:2], i == 0); d.ok() {
			m.MarkWhole(Database{key[0], key[1]})
		}
	}
	key = [4]uint32{}
	for i, n := uint64(0), d.uvarint(1<<32); i < n && d.ok(); i++ {
		d.key(key[:], i == 0)
		if key[3] > uint32(Init) {
			d.fail("fork %d does not exist", key[3])
		}
		from := d.blocks()
		if d.ok() {
			*m.fork(&Relation{key[0], key[1], key[2]}, Fork(key[3])) = *from
		}
	}
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("decode block map: %w", err)
	}
	return m, nil
}

// key moves key on to the next one, which must be greater but for the first.
func (d *decoder) key(key []uint32, first bool) {
	same := true
	for i := range key {
		v := uint32(d.uvarint(1<<32 - 1))
		if !same {
			key[i] = v
			continue
		}
		if v > ^uint32(0)-key[i] {
			d.fail("key is out of range")
			return
		}
		same = v == 0
		key[i] += v
	}
	if same && !first {
		d.fail("key is repeated")
	}
}

func (d *decoder) blocks() *blocks {
	b := &blocks{limit: uint32(d.uvarint(1<<32-1)) - 1}
	n := d.uvarint(1 << 16)
	next := uint64(0)
	for ; n > 0 && d.ok(); n-- {
		index := next + d.uvarint(1<<16-1)
		if index > 1<<16-1 {
			d.fail("chunk %d does not exist", index)
			break
		}
		next = index + 1
		b.chunks = append(b.chunks, d.chunk(uint16(index)))
	}
	if d.ok() && b.empty() {
		d.fail("fork has neither limit nor block")
	}
	if n := len(b.chunks); d.ok() && n > 0 && b.chunks[n-1].last(uint32(b.chunks[n-1].index)<<16) >= b.limit {
		d.fail("a block lies at or past the limit %d", b.limit)
	}
	return b
}

// chunk reads a chunk and refuses the form that the encoder would not have chosen.
func (d *decoder) chunk(index uint16) chunk {
	c := chunk{index: index}
	head := d.uvarint(chunkBlocks<<1 - 1)
	count, bitmap := int(head>>1)+1, head&1 != 0
	if bitmap {
		d.bitmap(&c)
	} else {
		d.list(&c, count)
	}
	if d.ok() && (c.count() != count || bitmap != (c.listLen() >= bitmapLen)) {
		d.fail("chunk of %d blocks is not in its shortest form", count)
	}
	return c
}

func (d *decoder) bitmap(c *chunk) {
	raw := d.raw(bitmapLen)
	if raw == nil {
		return
	}
	c.bitmap = new([chunkBlocks / 64]uint64)
	for i := range c.bitmap {
		c.bitmap[i] = le.Uint64(raw[8*i:])
	}
}

func (d *decoder) list(c *chunk, count int) {
	next := uint64(0)
	for ; count > 0 && d.ok(); count-- {
		n := next + d.uvarint(chunkBlocks-1)
		if n >= chunkBlocks {
			d.fail("block %d does not exist in a chunk", n)
			return
		}
		next = n + 1
		if d.ok() {
			c.add(uint16(n))
		}
	}
}
