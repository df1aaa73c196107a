package backup

import "github.com/pgtender/pgtender/backup/repo"

const (
	// minFrame is the least a frame holds unless its file ends, in raw bytes:
	// smaller ones compress badly, whatever their content.
	minFrame = 64 << 10
	// frameTarget is about what a larger frame may take up stored, in bytes.
	// Who wants a single page has to fetch the frame it is in, so content that
	// compresses well comes in larger frames and costs no more to fetch.
	frameTarget = 64 << 10
)

// cutter says how large the next frame of a file is to be, from how well the
// last one compressed.
type cutter struct {
	size     int // raw bytes of the next frame, a multiple of the block size
	max      int // most raw bytes of a frame
	pageSize int
}

func newCutter(blockSize int) cutter {
	return cutter{size: minFrame, max: min(repo.MaxFrame, repo.MaxFramePages*blockSize), pageSize: blockSize}
}

// learn takes note of a frame that was stored.
func (c *cutter) learn(raw, stored int) {
	// raw is at most 256 KiB, so this stays far from the end of an int.
	size := frameTarget * raw / max(stored, 1)
	c.size = min(max(size-size%c.pageSize, minFrame), c.max)
}
