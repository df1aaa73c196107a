//go:build cgo && (amd64 || arm64)

package pg

/*
#cgo CFLAGS: -O3
#cgo noescape pgtender_page_sums
#cgo nocallback pgtender_page_sums

#include <stddef.h>
#include <stdint.h>

// Eight lanes. The compiler maps the type to what the target has: one AVX2
// register, two of SSE or NEON. In memory they need no alignment.
typedef uint32_t lanes __attribute__((vector_size(32)));
typedef uint32_t words __attribute__((vector_size(32), aligned(1), may_alias));

#define MIX(x, word) do { lanes t = (x) ^ (word); (x) = (t * 16777619u) ^ (t >> 17); } while (0)

static inline __attribute__((always_inline)) void
sums(uint32_t *out, const unsigned char *p, size_t pages, size_t page_size, const uint32_t *bases)
{
	const words *base = (const words *) bases;
	const lanes zero = {0};

	for (; pages > 0; pages--, out++, p += page_size)
	{
		const words *w = (const words *) p;
		const words *end = (const words *) (p + page_size);
		lanes a = base[0], b = base[1], c = base[2], d = base[3];
		lanes first = w[0];

		first[2] &= 0xffff0000u; // the stored checksum counts as 0
		MIX(a, first);
		MIX(b, w[1]);
		MIX(c, w[2]);
		MIX(d, w[3]);
		for (w += 4; w < end; w += 4)
		{
			MIX(a, w[0]);
			MIX(b, w[1]);
			MIX(c, w[2]);
			MIX(d, w[3]);
		}
		for (int round = 0; round < 2; round++)
		{
			MIX(a, zero);
			MIX(b, zero);
			MIX(c, zero);
			MIX(d, zero);
		}
		a ^= b ^ c ^ d;
		*out = a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7];
	}
}

#if defined(__x86_64__)
static __attribute__((target("avx2"))) void
sums_avx2(uint32_t *out, const unsigned char *p, size_t pages, size_t page_size, const uint32_t *bases)
{
	sums(out, p, pages, page_size, bases);
}

static __attribute__((target("sse4.1"))) void
sums_sse41(uint32_t *out, const unsigned char *p, size_t pages, size_t page_size, const uint32_t *bases)
{
	sums(out, p, pages, page_size, bases);
}
#endif

static void
pgtender_page_sums(uint32_t *out, const unsigned char *p, size_t pages, size_t page_size, const uint32_t *bases)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
	{
		sums_avx2(out, p, pages, page_size, bases);
		return;
	}
	if (__builtin_cpu_supports("sse4.1"))
	{
		sums_sse41(out, p, pages, page_size, bases);
		return;
	}
#endif
	sums(out, p, pages, page_size, bases);
}
*/
import "C"

import "unsafe"

// pageSums is pageSumsGo in vector code.
func pageSums(out []uint32, buf []byte, pageSize int) {
	if len(out) == 0 || pageSize == 0 || pageSize%sumRow != 0 || len(buf) < len(out)*pageSize {
		pageSumsGo(out, buf, pageSize) // panics on an index, as Go does, where C would read on
		return
	}
	C.pgtender_page_sums((*C.uint32_t)(&out[0]), (*C.uchar)(unsafe.SliceData(buf)),
		C.size_t(len(out)), C.size_t(pageSize), (*C.uint32_t)(&sumBases[0]))
}
