package repo

import (
	"fmt"
	"sync"
)

// Codec says how a payload is compressed.
type Codec uint8

// The codecs of format version 0.
const (
	CodecNone Codec = 0
	CodecZstd Codec = 1
)

func (c Codec) String() string {
	switch c {
	case CodecNone:
		return "none"
	case CodecZstd:
		return "zstd"
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// DefaultLevel is zstd's level 1: on PostgreSQL's pages it is the fastest
// setting of any codec measured that still halves the size twice.
const DefaultLevel = 1

// compressor is one zstd encoder and decoder with its working memory, for one
// goroutine at a time. Two implementations exist: libzstd through cgo, and a
// pure Go one; newCompressor is the one that the build selects.
type compressor interface {
	// compress writes one zstd frame of src to dst's start if it fits into
	// bound(len(src)) bytes there, else to new memory, and gives the frame.
	compress(dst, src []byte, level int, how search) ([]byte, error)
	// decompress fills dst exactly; it never writes past it.
	decompress(dst, src []byte) error
	// bound is the most that src bytes can become.
	bound(src int) int
}

// search is how level 1 looks for repetitions. A reader sees no difference, nor
// does an encoder without the choice, or at another level.
type search uint8

const (
	searchLong  search = iota // as zstd does by itself
	searchBrief               // in a larger table, and shorter ones, see tuning
	// searchWAL looks for short ones, since records are short, in a table a quarter
	// as large, which fits the processor's first cache. On WAL of bulk loads,
	// inserts, updates, pgbench and rebuilt indexes that takes 0.92 to 0.97 times
	// the time of zstd's own way, and 0.84 to 1.03 times the room.
	searchWAL
	// searchHasty and searchSteps are for haste, see hastily: as searchWAL, the one
	// without entropy coding of literals, the other in an even smaller table and, where
	// nothing is found, in larger steps.
	searchHasty
	searchSteps
)

// hastily chooses how to compress a chunk of WAL in haste, by the one before it, of
// which so many raw bytes became so many stored ones; 0 and 0: there was none. What
// is hardly compressed costs the most time, and larger steps make it 10 to 12 % larger;
// what is well compressed would become half as large again, but has few literals.
func hastily(raw, stored int) search {
	switch {
	case raw == 0:
		return searchWAL
	case raw < 5*stored:
		return searchSteps
	}
	return searchHasty
}

var compressors = sync.Pool{New: func() any { return newCompressor() }}

// withCompressor lends a pooled compressor to f.
func withCompressor(f func(compressor) error) error {
	c := compressors.Get().(compressor)
	defer compressors.Put(c)
	return f(c)
}

// compressTo compresses raw to the start of dst, whose capacity should be at least
// c.bound(len(raw)), and gives what is to be stored: raw itself (copied) with
// CodecNone where compression does not make it smaller.
func compressTo(c compressor, dst, raw []byte, codec Codec, level int, how search) ([]byte, Codec, error) {
	if codec == CodecZstd && len(raw) > 0 {
		out, err := c.compress(dst, raw, level, how)
		if err != nil {
			return nil, 0, fmt.Errorf("compress %d bytes: %w", len(raw), err)
		}
		if len(out) < len(raw) {
			return out, CodecZstd, nil
		}
	}
	return append(dst[:0], raw...), CodecNone, nil
}

// compressNew is compressTo with a pooled compressor and new memory.
func compressNew(raw []byte, codec Codec, level int) (out []byte, used Codec, err error) {
	err = withCompressor(func(c compressor) error {
		out, used, err = compressTo(c, nil, raw, codec, level, searchLong)
		return err
	})
	return out, used, err
}

// expand fills dst with the raw bytes of stored, whose checksum has been
// verified by the caller. The lengths must obey the rule of format.md §1.
func expand(c compressor, dst, stored []byte, codec Codec) error {
	if err := checkLengths(codec, len(dst), len(stored)); err != nil {
		return err
	}
	if codec == CodecNone {
		copy(dst, stored)
		return nil
	}
	if err := c.decompress(dst, stored); err != nil {
		return damage(0, "decompress %d bytes into %d: %v", len(stored), len(dst), err)
	}
	return nil
}

func checkLengths(codec Codec, raw, stored int) error {
	switch {
	case codec > CodecZstd:
		return unknownVersion("codec", int(codec))
	case codec == CodecNone && stored != raw:
		return damage(-1, "stored length %d differs from raw length %d without compression", stored, raw)
	case codec != CodecNone && (stored >= raw || stored == 0):
		return damage(-1, "stored length %d does not fit raw length %d under %s", stored, raw, codec)
	}
	return nil
}
