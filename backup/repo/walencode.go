package repo

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/pgtender/pgtender/backup/storage"
)

// walSpool is how much of an encoded segment is kept in memory; what is larger
// goes to an unlinked temporary file.
const walSpool = 64 << 20

// walWorkers is how many chunks of one segment are compressed at once at most.
const walWorkers = 4

// walsEncoded is how many segments are being encoded. They share the processors:
// where there are as many as these, each is compressed by one goroutine, which waits
// for no other.
var walsEncoded atomic.Int32

// walMemory is what encoding a segment takes. It is used again for the next one:
// memory that is new costs a fault for every page and is cleared, which was a
// tenth of the time that a segment takes.
type walMemory struct {
	chunks  []byte // empty, with room for the encoded segment
	workers [walWorkers]struct{ raw, stored []byte }
}

var walMemories = sync.Pool{New: func() any { return new(walMemory) }}

// lendWALMemory gives memory for a segment with n bytes of content. There is room
// for one that does not shrink, once: a buffer that grows is copied again and
// again, and memory never written to costs nothing.
func lendWALMemory(n int64) *walMemory {
	m := walMemories.Get().(*walMemory)
	if room := min(walSpool, n); int64(cap(m.chunks)) < room {
		m.chunks = make([]byte, 0, room)
	}
	return m
}

// give puts the memory back, with that of the spool that had it.
func (m *walMemory) give(s *spool) {
	m.chunks = s.mem[:0]
	walMemories.Put(m)
}

// encodeChunks compresses the segment into out, several chunks at a time, and
// sets h's digest.
func (r *Repo) encodeChunks(h *WALHeader, out io.Writer, segment io.ReaderAt, m *walMemory) (table []byte, err error) {
	e := &walEncoder{
		repo: r, segment: segment, length: h.contentLength(), out: out,
		digest: newHasher(), written: sync.NewCond(new(sync.Mutex)),
	}
	n := int((e.length + walChunk - 1) / walChunk)
	workers := min(walWorkers, n, runtime.GOMAXPROCS(0)/int(walsEncoded.Add(1)))
	defer walsEncoded.Add(-1)
	if workers <= 1 {
		e.work(&m.workers[0].raw, &m.workers[0].stored)
	} else {
		each(workers, workers, func(i int) { e.work(&m.workers[i].raw, &m.workers[i].stored) })
	}
	h.Digest = e.digest.digest()
	return e.table, e.err
}

// walEncoder compresses a segment. Chunks are read in order, since the digest is
// of the whole, compressed side by side, and written in order.
type walEncoder struct {
	repo    *Repo
	segment io.ReaderAt
	length  int64
	out     io.Writer

	reading sync.Mutex
	off     int64   // read so far; guarded by reading
	digest  *hasher // guarded by reading

	written *sync.Cond
	at      int64  // chunks up to here are written; guarded by written.L
	table   []byte // guarded by written.L
	err     error  // the first; guarded by written.L
}

// work compresses chunks until none is left, in memory that it may replace.
func (e *walEncoder) work(raw, stored *[]byte) {
	for {
		off, err := e.read(raw)
		if err == nil && len(*raw) == 0 {
			return
		}
		if err == nil {
			err = e.compress(*raw, stored)
		}
		if !e.write(off, int64(len(*raw)), *stored, err) {
			return
		}
	}
}

// read gets the next chunk; an empty one is the end.
func (e *walEncoder) read(raw *[]byte) (off int64, err error) {
	e.reading.Lock()
	defer e.reading.Unlock()
	off = e.off
	*raw = sized(*raw, int(min(walChunk, e.length-off)))
	e.off += int64(len(*raw))
	if n, err := e.segment.ReadAt(*raw, off); n < len(*raw) {
		return off, fmt.Errorf("read segment at %d: %w", off, storage.NotAbsence(notEOF(err)))
	}
	e.digest.Write(*raw)
	return off, nil
}

func (e *walEncoder) compress(raw []byte, stored *[]byte) error {
	how := searchWAL
	if e.repo.hasty {
		how = searchHasty
	}
	return withCompressor(func(z compressor) (err error) {
		*stored = sized(*stored, z.bound(len(raw)))
		*stored, _, err = compressTo(z, (*stored)[:0], raw, e.repo.codec(), e.repo.opts.Level, how)
		return err
	})
}

// write appends the chunk of n raw bytes at off once those before it are written,
// unless there was an error, of it or of another. It reports whether to go on.
func (e *walEncoder) write(off, n int64, stored []byte, err error) bool {
	e.written.L.Lock()
	defer e.written.L.Unlock()
	defer e.written.Broadcast()
	for e.at < off && e.err == nil && err == nil {
		e.written.Wait()
	}
	if e.err == nil && err == nil {
		_, err = e.out.Write(stored)
	}
	if e.err == nil {
		e.err = err
	}
	if e.err != nil {
		return false
	}
	e.table = le.AppendUint32(e.table, uint32(len(stored)))
	e.table = le.AppendUint32(e.table, checksum(stored))
	e.at = off + n
	return true
}
