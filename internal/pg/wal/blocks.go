package wal

import (
	"cmp"
	"math/bits"
	"slices"
)

const (
	chunkBlocks = 1 << 16
	bitmapLen   = chunkBlocks / 8 // bytes

	// listMax is how many blocks a chunk lists before it becomes a bitmap of
	// twice the size: an insertion moves 2 KiB on average at worst.
	listMax = 2048
)

// blocks is a set of block numbers and the fork's limit, noBlock if none.
type blocks struct {
	limit  uint32
	latest uint32 // the block added last, plus 1, which is there or past the limit; 0: none
	last   int    // chunk used last
	chunks []chunk
}

// chunk holds the blocks index*65536 and up: a sorted list, or a bitmap.
type chunk struct {
	index  uint16
	list   []uint16
	bitmap *[chunkBlocks / 64]uint64
}

func (b *blocks) find(index uint16) (int, bool) {
	return slices.BinarySearchFunc(b.chunks, index, func(c chunk, i uint16) int { return cmp.Compare(c.index, i) })
}

// add ignores blocks from the limit on: they count as changed already.
func (b *blocks) add(block uint32) {
	if block+1 == b.latest || block >= b.limit {
		return
	}
	b.latest = block + 1
	index := uint16(block >> 16)
	if b.last >= len(b.chunks) || b.chunks[b.last].index != index {
		i, ok := b.find(index)
		if !ok {
			b.chunks = slices.Insert(b.chunks, i, chunk{index: index})
		}
		b.last = i
	}
	b.chunks[b.last].add(uint16(block))
}

func (b *blocks) has(block uint32) bool {
	i, ok := b.find(uint16(block >> 16))
	return ok && b.chunks[i].has(uint16(block))
}

func (b *blocks) truncate(length uint32) {
	if length >= b.limit {
		return
	}
	b.limit = length
	i, ok := b.find(uint16(length >> 16))
	if ok {
		b.chunks[i].truncate(uint16(length))
		if b.chunks[i].count() > 0 {
			i++
		}
	}
	clear(b.chunks[i:])
	b.chunks, b.last = b.chunks[:i], 0
}

func (b *blocks) merge(o *blocks) {
	limit := min(b.limit, o.limit)
	b.limit = noBlock
	for n := range o.chunks {
		from := &o.chunks[n]
		i, ok := b.find(from.index)
		if !ok {
			b.chunks = slices.Insert(b.chunks, i, from.clone())
			continue
		}
		b.chunks[i].merge(from)
	}
	b.truncate(limit)
}

// each yields the blocks of [low, high) in order.
func (b *blocks) each(low, high uint32, yield func(uint32) bool) {
	if low >= high {
		return
	}
	i, _ := b.find(uint16(low >> 16))
	for ; i < len(b.chunks); i++ {
		c := &b.chunks[i]
		base := uint32(c.index) << 16
		if base >= high {
			return
		}
		from, to := uint32(0), uint32(chunkBlocks)
		if low > base {
			from = low - base
		}
		if high-base < to {
			to = high - base
		}
		if !c.each(from, to, func(n uint16) bool { return yield(base | uint32(n)) }) {
			return
		}
	}
}

func (c *chunk) add(n uint16) {
	if c.bitmap != nil {
		c.bitmap[n>>6] |= 1 << (n & 63)
		return
	}
	i := len(c.list)
	if i > 0 && c.list[i-1] >= n {
		var ok bool
		if i, ok = slices.BinarySearch(c.list, n); ok {
			return
		}
	}
	if len(c.list) < listMax {
		c.list = slices.Insert(c.list, i, n)
		return
	}
	c.toBitmap()
	c.add(n)
}

func (c *chunk) toBitmap() {
	c.bitmap = new([chunkBlocks / 64]uint64)
	for _, n := range c.list {
		c.bitmap[n>>6] |= 1 << (n & 63)
	}
	c.list = nil
}

func (c *chunk) has(n uint16) bool {
	if c.bitmap != nil {
		return c.bitmap[n>>6]&(1<<(n&63)) != 0
	}
	_, ok := slices.BinarySearch(c.list, n)
	return ok
}

func (c *chunk) count() int {
	if c.bitmap == nil {
		return len(c.list)
	}
	n := 0
	for _, w := range c.bitmap {
		n += bits.OnesCount64(w)
	}
	return n
}

// last gives the highest member, counted from base. The chunk is not empty.
func (c *chunk) last(base uint32) uint32 {
	if c.bitmap == nil {
		return base | uint32(c.list[len(c.list)-1])
	}
	i := len(c.bitmap) - 1
	for c.bitmap[i] == 0 {
		i--
	}
	return base | uint32(i<<6+bits.Len64(c.bitmap[i])-1)
}

// truncate drops the blocks from n on.
func (c *chunk) truncate(n uint16) {
	if c.bitmap == nil {
		i, _ := slices.BinarySearch(c.list, n)
		c.list = c.list[:i]
		return
	}
	c.bitmap[n>>6] &= 1<<(n&63) - 1
	clear(c.bitmap[n>>6+1:])
}

func (c *chunk) clone() chunk {
	d := chunk{index: c.index, list: slices.Clone(c.list)}
	if c.bitmap != nil {
		d.bitmap = new([chunkBlocks / 64]uint64)
		*d.bitmap = *c.bitmap
	}
	return d
}

func (c *chunk) merge(o *chunk) {
	if o.bitmap == nil {
		for _, n := range o.list {
			c.add(n)
		}
		return
	}
	if c.bitmap == nil {
		c.toBitmap()
	}
	for i, w := range o.bitmap {
		c.bitmap[i] |= w
	}
}

// each yields the members of [from, to), to at most 65536, in order; it returns
// false once yield has.
func (c *chunk) each(from, to uint32, yield func(uint16) bool) bool {
	if c.bitmap == nil {
		i, _ := slices.BinarySearch(c.list, uint16(from))
		for _, n := range c.list[i:] {
			if uint32(n) >= to {
				return true
			}
			if !yield(n) {
				return false
			}
		}
		return true
	}
	for i := from >> 6; i < uint32(len(c.bitmap)); i++ {
		w := c.bitmap[i]
		if i == from>>6 {
			w &= ^uint64(0) << (from & 63)
		}
		for ; w != 0; w &= w - 1 {
			n := i<<6 + uint32(bits.TrailingZeros64(w))
			if n >= to {
				return true
			}
			if !yield(uint16(n)) {
				return false
			}
		}
	}
	return true
}
