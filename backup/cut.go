package backup

import (
	"context"
	"fmt"

	"github.com/pgtender/pgtender/backup/repo"
)

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
	// raw is at most repo.MaxFrame, so this stays far from the end of an int.
	size := frameTarget * raw / max(stored, 1)
	c.size = min(max(size-size%c.pageSize, minFrame), c.max)
}

// next gives how much of n raw bytes the next frame takes. Where all are to be
// stored, a rest that would make a small frame of its own is shared out.
func (c *cutter) next(n int, all bool) int {
	switch rest := n - c.size; {
	case rest <= 0:
		return n
	case !all || rest >= minFrame:
		return c.size
	case n <= c.max:
		return n
	default:
		return n / 2 / c.pageSize * c.pageSize
	}
}

// runs stores the content of one file, which comes in order, in frames of
// contiguous pages.
type runs struct {
	packs  *repo.PackWriter
	file   uint32
	path   string
	cut    cutter
	page   uint32 // the next
	frames []repo.Frame
}

func newRuns(packs *repo.PackWriter, e *repo.Entry, blockSize int, first uint32) *runs {
	return &runs{packs: packs, file: e.File, path: e.Path, cut: newCutter(blockSize), page: first}
}

// take stores what comes next, and gives what is left of it: less than a frame,
// or with all set nothing.
func (r *runs) take(ctx context.Context, data []byte, all bool) (rest []byte, err error) {
	for len(data) >= r.cut.size || all && len(data) > 0 {
		raw := data[:r.cut.next(len(data), all)]
		frame, err := r.packs.WriteRun(ctx, r.file, r.page, raw)
		if err != nil {
			return nil, fmt.Errorf("store %s: %w", r.path, err)
		}
		r.note(frame, len(raw))
		data = data[len(raw):]
	}
	return data, nil
}

// note takes a frame of the next pages into account.
func (r *runs) note(f repo.Frame, raw int) {
	r.frames = append(r.frames, f)
	r.page += f.Count
	r.cut.learn(raw, int(f.Length))
}
