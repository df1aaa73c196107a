//go:build cgo

package repo

/*
#include <stddef.h>

// github.com/DataDog/zstd brings the library but, for compression, only its
// levels. What else is needed is declared here as in zstd.h, whose stable part
// it is. Weak, because cgo links this package once without the library to see
// what it imports.
typedef struct ZSTD_CCtx_s ZSTD_CCtx;
extern ZSTD_CCtx *ZSTD_createCCtx(void) __attribute__((weak));
extern size_t ZSTD_freeCCtx(ZSTD_CCtx *) __attribute__((weak));
extern size_t ZSTD_CCtx_reset(ZSTD_CCtx *, int directive) __attribute__((weak));
extern size_t ZSTD_CCtx_setParameter(ZSTD_CCtx *, int parameter, int value) __attribute__((weak));
extern size_t ZSTD_compress2(ZSTD_CCtx *, void *dst, size_t dstCapacity, const void *src, size_t srcSize) __attribute__((weak));
extern unsigned ZSTD_isError(size_t) __attribute__((weak));

enum { RESET_PARAMETERS = 2, LEVEL = 100, HASH_LOG = 102, MIN_MATCH = 105, TARGET_LENGTH = 106, LITERALS = 1002 };

// pgt_level makes c compress at a level from now on, with a table of 2^hash_log
// entries, matches of at least min_match bytes, what zstd.h says target_length is for
// the strategy, and literals that are coded (1) or not (2, ZSTD_c_literalCompressionMode,
// which is not of the stable part but has been the same since it is there); 0: what zstd
// takes for the level.
static size_t pgt_level(ZSTD_CCtx *c, int level, int hash_log, int min_match, int target_length, int literals) {
	size_t r = ZSTD_CCtx_reset(c, RESET_PARAMETERS);
	if (!ZSTD_isError(r)) r = ZSTD_CCtx_setParameter(c, LEVEL, level);
	if (hash_log && !ZSTD_isError(r)) r = ZSTD_CCtx_setParameter(c, HASH_LOG, hash_log);
	if (min_match && !ZSTD_isError(r)) r = ZSTD_CCtx_setParameter(c, MIN_MATCH, min_match);
	if (target_length && !ZSTD_isError(r)) r = ZSTD_CCtx_setParameter(c, TARGET_LENGTH, target_length);
	if (literals && !ZSTD_isError(r)) r = ZSTD_CCtx_setParameter(c, LITERALS, literals);
	return r;
}
*/
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/DataDog/zstd"
)

func newCompressor() compressor {
	z := &libzstd{enc: C.ZSTD_createCCtx(), dec: zstd.NewCtx()}
	runtime.AddCleanup(z, func(c *C.ZSTD_CCtx) { C.ZSTD_freeCCtx(c) }, z.enc)
	return z
}

// libzstd is the reference implementation through cgo. The C side writes
// straight into the buffers given; its memory is freed after z is collected.
type libzstd struct {
	enc   *C.ZSTD_CCtx // nil: no memory
	level int          // that enc is set to, if set
	how   search       // likewise
	set   bool
	dec   zstd.Ctx
}

// hasSearch: compress makes a difference between ways to search.
const hasSearch = true

// searches are the settings of each way to search at level 1.
var searches = [...]struct{ hashLog, minMatch, targetLength, literals C.int }{
	searchLong:  {0, 0, 0, 0},  // at level 1, zstd takes 14 and 7 above 256 KiB, 14 and 6 above 128
	searchBrief: {15, 5, 0, 0}, // as zstd does up to 16 KiB
	searchWAL:   {12, 5, 0, 0},
	// With a target length, which is how far it steps where it finds nothing, the fast
	// strategy leaves literals as they are unless it is told to code them
	// (ZSTD_literalsCompressionIsDisabled, zstd_compress_internal.h).
	searchHasty: {12, 5, 1, 2},
	searchSteps: {11, 6, 3, 1},
}

func (z *libzstd) compress(dst, src []byte, level int, how search) ([]byte, error) {
	if z.enc == nil {
		return nil, fmt.Errorf("zstd: no memory for an encoder")
	}
	if level != 1 {
		how = searchLong
	}
	if !z.set || z.level != level || z.how != how {
		s := searches[how]
		if C.ZSTD_isError(C.pgt_level(z.enc, C.int(level), s.hashLog, s.minMatch, s.targetLength, s.literals)) != 0 {
			return nil, fmt.Errorf("zstd: level %d is refused", level)
		}
		z.level, z.how, z.set = level, how, true
	}
	if n := z.bound(len(src)); cap(dst) < n {
		dst = make([]byte, n)
	}
	dst = dst[:cap(dst)]
	n := C.ZSTD_compress2(z.enc, unsafe.Pointer(unsafe.SliceData(dst)), C.size_t(len(dst)), unsafe.Pointer(unsafe.SliceData(src)), C.size_t(len(src)))
	runtime.KeepAlive(z)
	if C.ZSTD_isError(n) != 0 {
		return nil, fmt.Errorf("zstd: %d bytes do not fit into %d compressed, or no memory", len(src), len(dst))
	}
	return dst[:n], nil
}

func (z *libzstd) decompress(dst, src []byte) error {
	if len(dst) == 0 || len(src) == 0 {
		return fmt.Errorf("nothing to decompress")
	}
	n, err := z.dec.DecompressInto(dst, src)
	if err == nil && n != len(dst) {
		err = fmt.Errorf("it holds %d bytes", n)
	}
	return err
}

func (*libzstd) bound(n int) int { return zstd.CompressBound(n) }
