//go:build cgo

package repo

import (
	"fmt"

	"github.com/DataDog/zstd"
)

func newCompressor() compressor { return libzstd{zstd.NewCtx()} }

// libzstd is the reference implementation through cgo. The C side writes
// straight into the buffers given; its memory is freed by a finalizer.
type libzstd struct{ ctx zstd.Ctx }

func (z libzstd) compress(dst, src []byte, level int) ([]byte, error) {
	return z.ctx.CompressLevel(dst, src, level)
}

func (z libzstd) decompress(dst, src []byte) error {
	if len(dst) == 0 || len(src) == 0 {
		return fmt.Errorf("nothing to decompress")
	}
	n, err := z.ctx.DecompressInto(dst, src)
	if err == nil && n != len(dst) {
		err = fmt.Errorf("it holds %d bytes", n)
	}
	return err
}

func (libzstd) bound(n int) int { return zstd.CompressBound(n) }
