package repo

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg/wal"
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
	chunks []byte // empty, with room for the encoded segment
	slots  [walWorkers + 1]walSlot
}

// walSlot holds one chunk, as it was read, condensed and, unless it is made where it
// is to be, as it is stored.
type walSlot struct {
	raw, condensed, stored []byte
	sound                  wal.Marks // records whose CRC is known to be right
}

// room gives memory for n stored bytes.
func (s *walSlot) room(n int) []byte {
	s.stored = sized(s.stored, n)
	return s.stored
}

var walMemories = sync.Pool{New: func() any { return new(walMemory) }}

// lendWALMemory gives memory for a segment with n bytes of content. There is room
// for one that does not shrink, once: a buffer that grows is copied again and
// again, and memory never written to costs nothing.
func lendWALMemory(n int64) *walMemory {
	m := walMemories.Get().(*walMemory)
	if room := min(walSpool, n); int64(cap(m.chunks)) < room {
		m.chunks = make([]byte, 0, room+2*walChunk) // the last chunk is made in room for one that grows
	}
	return m
}

// give puts the memory back, with that of the spool that had it.
func (m *walMemory) give(s *spool) {
	m.chunks = s.mem[:0]
	walMemories.Put(m)
}

// walPiece is how much of a segment is read at once; what judges and hashes it finds
// it in the processor's cache. A chunk is a whole number of pieces.
const walPiece = 256 << 10

// WALIntake is one segment that is read once, piece by piece, for both the one who
// judges it and the encoder, so that what is stored is what was judged. Chunks are
// compressed while the following ones are judged. Its methods are for one goroutine.
type WALIntake struct {
	repo    *Repo
	segment io.ReaderAt
	length  int64
	digest  *hasher
	encoder *walEncoder
	memory  *walMemory // lent; nil: given on or back

	slot   *walSlot // of the chunk that is being read
	begin  int64    // of that chunk in the segment
	hashed int      // bytes of it

	beside  bool          // others compress
	free    chan *walSlot // those that nobody uses
	working sync.WaitGroup
}

// TakeWAL begins to read a segment of so many bytes, which is closed in the end.
// Chunks are compressed on up to four processors; memory is the compressed segment,
// at most 64 MiB of it, and 3 MiB per processor and 3 more.
func (r *Repo) TakeWAL(segment io.ReaderAt, length int64) *WALIntake {
	m := lendWALMemory(length)
	in := &WALIntake{
		repo: r, segment: segment, length: length, digest: newHasher(), memory: m,
		encoder: &walEncoder{
			repo: r, out: &spool{dir: r.opts.TempDir, limit: walSpool, mem: m.chunks}, written: sync.NewCond(new(sync.Mutex)),
		},
	}
	workers := min(walWorkers, int((length+walChunk-1)/walChunk), runtime.GOMAXPROCS(0)/int(walsEncoded.Add(1)))
	if in.beside = workers > 1; in.beside {
		in.free = make(chan *walSlot, workers)
		for i := range workers {
			in.free <- &m.slots[1+i]
		}
	}
	in.begins(&m.slots[0])
	return in
}

// begins begins the next chunk.
func (in *WALIntake) begins(s *walSlot) {
	s.raw = sized(s.raw, walChunk)[:0]
	s.sound.Reset(walChunk)
	in.slot, in.hashed = s, 0
}

// Piece gives some bytes from an offset on, never none: the next ones, or again those
// that it gave last. They are valid until the next call. Any others are read anew.
func (in *WALIntake) Piece(off int64) ([]byte, error) {
	raw := in.slot.raw
	if at := off - in.begin; at >= int64(in.hashed) && at < int64(len(raw)) {
		return raw[at:], nil
	}
	if off != in.begin+int64(len(raw)) {
		b := make([]byte, min(walPiece, max(0, in.length-off)))
		return b, in.read(b, off)
	}
	in.settle(len(raw))
	raw = in.slot.raw
	b := raw[len(raw) : len(raw)+int(min(walPiece, in.length-off))]
	if err := in.read(b, off); err != nil {
		return nil, err
	}
	in.slot.raw = raw[:len(raw)+len(b)]
	return b, nil
}

// Sound says that the CRC of the record at an offset is right, of the bytes that
// [WALIntake.Piece] gave. It saves computing it again, if it is said before the next piece
// is asked for.
func (in *WALIntake) Sound(off int64) {
	if at := off - in.begin; at >= 0 && at < int64(len(in.slot.raw)) {
		in.slot.sound.Add(int(at))
	}
}

// read fills b, which is not empty unless off is the segment's end or behind it.
func (in *WALIntake) read(b []byte, off int64) error {
	n, err := in.segment.ReadAt(b, off)
	if len(b) > 0 && n == len(b) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read segment at %d: %w", off, storage.NotAbsence(notEOF(err)))
}

// settle hashes the chunk up to n bytes, of which it has as many, and hands it on if
// it is whole.
func (in *WALIntake) settle(n int) {
	in.digest.Write(in.slot.raw[in.hashed:n])
	if in.hashed = n; n == walChunk {
		in.handOn()
	}
}

// handOn has the chunk compressed and begins the next one.
func (in *WALIntake) handOn() {
	s, off := in.slot, in.begin
	if off == 0 {
		in.encoder.readsPages(s.raw)
	}
	in.begin += int64(len(s.raw))
	if !in.beside {
		in.encoder.encode(s, off, func(n int) []byte {
			if b := in.encoder.out.room(n); b != nil {
				return b
			}
			return s.room(n)
		})
		in.begins(s)
		return
	}
	in.working.Go(func() {
		in.encoder.encode(s, off, s.room)
		in.free <- s
	})
	in.begins(<-in.free)
}

// finish reads what is still missing of n bytes of content, and waits until all are
// encoded. False: more than n bytes are encoded already.
func (in *WALIntake) finish(n int64) (ok bool, err error) {
	for in.begin+int64(len(in.slot.raw)) < n {
		if _, err := in.Piece(in.begin + int64(len(in.slot.raw))); err != nil {
			return true, err
		}
	}
	if n < in.begin+int64(in.hashed) {
		return false, nil
	}
	in.slot.raw = in.slot.raw[:n-in.begin]
	if in.settle(len(in.slot.raw)); len(in.slot.raw) > 0 {
		in.handOn()
	}
	in.working.Wait()
	return true, in.encoder.err
}

// Close ends the reading. What [WALIntake.Encode] gave stays.
func (in *WALIntake) Close() error {
	in.working.Wait()
	if in.memory == nil {
		return nil
	}
	in.giveOn().give(in.encoder.out)
	return in.encoder.out.Close()
}

// giveOn lets another have the memory.
func (in *WALIntake) giveOn() *walMemory {
	m := in.memory
	walsEncoded.Add(-1)
	in.memory = nil
	return m
}

// walEncoder compresses chunks side by side, and writes them in order.
type walEncoder struct {
	repo     *Repo
	pageSize uint32 // of WAL pages; 0: it is no WAL, or is not to be condensed
	out      *spool // written to by whoever has written.L

	written *sync.Cond
	at      int64  // chunks up to here are written; guarded by written.L
	raw     int    // bytes of the last of them; guarded by written.L
	stored  int    // bytes that it became; guarded by written.L
	table   []byte // guarded by written.L
	err     error  // the first; guarded by written.L
}

// readsPages learns from a segment's start how large its pages are.
func (e *walEncoder) readsPages(start []byte) {
	h, err := wal.ReadSegmentHeader(bytes.NewReader(start))
	if err == nil && h.Plausible() && wal.ValidBlockSize(h.BlockSize) && e.repo.codec() != CodecNone {
		e.pageSize = h.BlockSize
	}
}

// encode condenses the chunk at off, compresses it, in some room, and writes it.
func (e *walEncoder) encode(s *walSlot, off int64, room func(n int) []byte) {
	content := s.raw
	if e.pageSize > 0 {
		s.condensed = sized(s.condensed, len(s.raw))
		if c, ok := wal.Condense(s.condensed[:0], s.raw, int(e.pageSize), s.sound); ok {
			content = c
		}
	}
	stored, err := e.compress(content, room)
	e.write(off, int64(len(s.raw)), content, stored, err)
}

func (e *walEncoder) compress(content []byte, room func(n int) []byte) (stored []byte, err error) {
	how := searchWAL
	if e.repo.hasty {
		e.written.L.Lock()
		how = hastily(e.raw, e.stored)
		e.written.L.Unlock()
	}
	err = withCompressor(func(z compressor) (err error) {
		stored, _, err = compressTo(z, room(z.bound(len(content))), content, e.repo.codec(), e.repo.opts.Level, how)
		return err
	})
	return stored, err
}

// write appends the chunk of n raw bytes at off once those before it are written,
// unless there was an error, of it or of another.
func (e *walEncoder) write(off, n int64, content, stored []byte, err error) {
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
		return
	}
	e.table = le.AppendUint32(e.table, uint32(len(stored)))
	e.table = le.AppendUint32(e.table, uint32(len(content)))
	e.table = le.AppendUint32(e.table, checksum(stored))
	e.at, e.raw, e.stored = off+n, int(n), len(stored)
}
