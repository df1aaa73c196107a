package repo

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// pureZstd is the implementation without cgo. Encoders for levels other than
// the first used are made when they are asked for.
type pureZstd struct {
	enc map[zstd.EncoderLevel]*zstd.Encoder
	dec *zstd.Decoder
}

func newPureZstd() *pureZstd {
	// The options are constants, so NewReader cannot refuse them. Memory is
	// bounded by the capacity of the destination.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		panic(err)
	}
	return &pureZstd{enc: map[zstd.EncoderLevel]*zstd.Encoder{}, dec: dec}
}

func (z *pureZstd) compress(dst, src []byte, level int, _ search) ([]byte, error) {
	l := zstd.EncoderLevelFromZstd(level)
	e := z.enc[l]
	if e == nil {
		var err error
		e, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(l), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
		if err != nil {
			return nil, err
		}
		z.enc[l] = e
	}
	return e.EncodeAll(src, dst[:0]), nil
}

func (z *pureZstd) decompress(dst, src []byte) error {
	out, err := z.dec.DecodeAll(src, dst[:0:len(dst)])
	if err == nil && len(out) != len(dst) {
		err = fmt.Errorf("it holds %d bytes", len(out))
	}
	return err
}

// bound follows ZSTD_COMPRESSBOUND (zstd.h), which the Go encoder keeps too:
// a block that does not shrink is stored raw behind three bytes.
func (*pureZstd) bound(n int) int { return n + n>>8 + 512 }
