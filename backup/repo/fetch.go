package repo

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"math/bits"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/storage"
)

// Read is one thing to be fetched: the wanted pages of a run or list, a member
// of a bundle, a page map or a frame table. [Manifest.Locate] makes them.
type Read struct {
	Tag    int64 // the caller's, handed through
	Backup BackupID
	Kind   FrameKind
	File   uint32 // in the numbering of Backup; of a bundle's member 0 if unknown
	Frame         // where, and which pages must be there

	Live uint64 // run, list: bit i is set if the frame's i-th page is wanted
	Size int64  // of the whole file the pages or the member belong to

	Member uint32 // bundle
	Digest Digest // bundle: of the member

	stored []byte // the frame, while its content is handed over
}

// FetchOptions modify a fetch. The zero value is a good choice.
type FetchOptions struct {
	Workers int // requests and decoders at the same time; 0 means 4
	Gap     int // bytes not wanted that are read rather than split a request; 0 means what suits the store, less than 0 none
	Range   int // most bytes of one request; 0 means 8 MiB
	// Reads are sorted and merged as far as they are for so many bytes of
	// content that follow one another, so that what is to lie together comes
	// together although many backups have stored it; 0 means FetchWindow.
	Window int
}

// FetchWindow is the window of a fetch that names none, in bytes.
const FetchWindow = 32 << 20

// windowReads is how many reads are sorted together at most, however small.
const windowReads = 16384

func (m *Manifest) filled(o FetchOptions) FetchOptions {
	o.Workers = cmp.Or(max(o.Workers, 0), 4)
	o.Gap = cmp.Or(o.Gap, storage.Gap(m.repo.store))
	o.Range = cmp.Or(max(o.Range, 0), 8<<20)
	o.Window = cmp.Or(max(o.Window, 0), FetchWindow)
	return o
}

// Fetch reads, decodes and verifies frames and hands over their content: of a
// run or list the pages of the whole frame, of which those in Live count (see
// [Read.Runs]), of a bundle the member. f is called from several goroutines at
// once, in no order, once for each read; the bytes are valid until it returns.
// The first error, of reads, f or the fetch, ends everything.
//
// Memory: Workers × (Range + 16 MiB at worst, usually 512 KiB) and a window's
// reads.
func (m *Manifest) Fetch(ctx context.Context, reads iter.Seq2[Read, error], opts FetchOptions, f func(context.Context, Read, []byte) error) error {
	opts = m.filled(opts)
	ranges := make(chan []Read)
	g, ctx := errgroup.WithContext(ctx)
	for range opts.Workers {
		g.Go(func() error {
			w := fetcher{m: m, c: compressors.Get().(compressor), f: f, room: rooms.Get().(*room)}
			defer compressors.Put(w.c)
			defer rooms.Put(w.room)
			for batch := range ranges {
				if err := w.fetch(ctx, batch); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(ranges)
		for batch, err := range m.Requests(reads, opts) {
			if err != nil {
				return err
			}
			select {
			case ranges <- batch:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	return g.Wait()
}

// within passes on the reads that lie in the packs that the manifest lists.
func (m *Manifest) within(reads iter.Seq2[Read, error]) iter.Seq2[Read, error] {
	return func(yield func(Read, error) bool) {
		for r, err := range reads {
			if err == nil {
				if fault := m.index.within(r.Backup, r.Place); fault != nil {
					err = &CorruptError{Key: m.key, Offset: -1, What: fault.Error()}
				}
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// Requests groups reads as [Manifest.Fetch] asks for them: what is in one group
// lies in one pack, in the order of its offsets, and is read at once with all
// that lies between; see [Span]. The groups are the caller's to keep.
func (m *Manifest) Requests(reads iter.Seq2[Read, error], opts FetchOptions) iter.Seq2[[]Read, error] {
	opts = m.filled(opts)
	return func(yield func([]Read, error) bool) {
		var window []Read
		content := 0 // bytes
		for r, err := range m.within(reads) {
			if err != nil {
				yield(nil, err)
				return
			}
			window = append(window, r)
			if content += r.content(m.Backup.BlockSize); content < opts.Window && len(window) < windowReads {
				continue
			}
			if !cut(window, opts, yield) {
				return
			}
			window, content = make([]Read, 0, len(window)), 0 // parts of the old one are the caller's
		}
		cut(window, opts, yield)
	}
}

// content gives about how many bytes of a file the read brings.
func (r *Read) content(blockSize int) int {
	if r.Kind == FrameBundle {
		return int(r.Size)
	}
	return bits.OnesCount64(r.Live) * blockSize
}

// cut sorts a window and cuts it into groups.
func cut(window []Read, opts FetchOptions, yield func([]Read, error) bool) bool {
	slices.SortFunc(window, func(a, b Read) int {
		return cmp.Or(cmp.Compare(a.Backup, b.Backup), cmp.Compare(a.Pack, b.Pack), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Member, b.Member))
	})
	for len(window) > 0 {
		n := rangeLen(window, opts)
		if !yield(window[:n:n], nil) {
			return false
		}
		window = window[n:]
	}
	return true
}

// Span gives the part of its pack that one of the groups of [Requests] takes.
func Span(reads []Read) (offset, length uint64) {
	start, end := reads[0].Offset, uint64(0)
	for i := range reads {
		end = max(end, reads[i].Offset+uint64(reads[i].Length))
	}
	return start, end - start
}

// rangeLen is how many of the sorted reads one request serves.
func rangeLen(reads []Read, opts FetchOptions) int {
	start, end := reads[0].Offset, reads[0].Offset+uint64(reads[0].Length)
	for i := 1; i < len(reads); i++ {
		r := &reads[i]
		next := r.Offset + uint64(r.Length)
		if r.Backup != reads[0].Backup || r.Pack != reads[0].Pack || r.Offset > end+uint64(max(opts.Gap, 0)) || max(next, end)-start > uint64(opts.Range) {
			return i
		}
		end = max(end, next)
	}
	return len(reads)
}

// fetcher is one worker of a fetch.
type fetcher struct {
	m *Manifest
	c compressor
	f func(context.Context, Read, []byte) error
	*room
}

// room is what a fetcher works in. A synthesis fetches thousands of times, and
// would leave as many behind.
type room struct {
	buf []byte // stored bytes of one range
	raw []byte // content of one frame
}

var rooms = sync.Pool{New: func() any { return new(room) }}

func (w *fetcher) fetch(ctx context.Context, reads []Read) error {
	ref := PackRef{Backup: reads[0].Backup, Number: reads[0].Pack}
	key := w.m.repo.packKey(ref)
	start, length := Span(reads)
	w.buf = sized(w.buf, int(length))
	if err := w.m.repo.readInto(ctx, key, int64(start), w.buf); err != nil {
		return err
	}
	tag := packTag(reads[0].Kind.packKind(), ref, w.m.repo.cluster.SystemID, w.m.Backup.BlockSize)
	var h frameHeader
	var ext []byte
	decoded := uint64(0) // offset of the frame in raw; no frame is at 0
	for i := range reads {
		r := &reads[i]
		b := w.buf[r.Offset-start:][:r.Length]
		if r.Offset != decoded {
			var err error
			if h, ext, err = w.open(b, r, tag); err != nil {
				return at(err, key, int64(r.Offset))
			}
			decoded = r.Offset
		}
		if h.length() != int(r.Length) {
			return at(damage(12, "frame of %d bytes, not %d", h.length(), r.Length), key, int64(r.Offset))
		}
		part, err := r.pick(&h, ext, w.raw, w.m.Backup.BlockSize)
		if err != nil {
			return at(err, key, int64(r.Offset))
		}
		handed := *r
		handed.stored = b[:h.length()]
		if err := w.f(ctx, handed, part); err != nil {
			return err
		}
	}
	return nil
}

// open decodes a frame of the pack into w.raw.
func (w *fetcher) open(b []byte, r *Read, tag uint32) (h frameHeader, ext []byte, err error) {
	h, ext, err = parseFrame(b, w.m.Backup.BlockSize)
	if err != nil {
		return h, nil, err
	}
	if h.tag != tag {
		return h, nil, damage(28, "the frame belongs to another pack")
	}
	payload := b[frameHead+len(ext):]
	w.raw, err = h.open(w.c, payload[:min(len(payload), int(h.stored))], w.raw)
	return h, ext, err
}

// pick checks that a decoded frame is the one that was announced and gives
// what the read wants of it.
func (r *Read) pick(h *frameHeader, ext, raw []byte, blockSize int) ([]byte, error) {
	if h.kind != r.Kind {
		return nil, damage(4, "a %s where a %s is announced", h.kind, r.Kind)
	}
	if h.kind == FrameBundle {
		return r.pickMember(ext, raw)
	}
	if h.file != r.File {
		return nil, damage(16, "frame of file %d, not %d", h.file, r.File)
	}
	if h.kind == FramePageMap || h.kind == FrameTables {
		return raw, nil
	}
	same := h.count == r.Count && (h.kind == FrameRun && h.first == r.First || h.kind == FrameList && len(r.Pages) == int(r.Count))
	for i := 0; same && i < len(ext); i += 4 {
		same = le.Uint32(ext[i:]) == r.Pages[i/4]
	}
	if !same {
		return nil, damage(20, "frame of other pages than the %d from %d on", r.Count, r.First)
	}
	for i := range int(r.Count) {
		if r.Live>>i&1 == 0 {
			continue
		}
		have := min(blockSize, len(raw)-i*blockSize)
		want := min(int64(blockSize), r.Size-int64(r.Page(i))*int64(blockSize))
		if int64(have) != want {
			return nil, damage(8, "page %d has %d bytes, not %d", r.Page(i), have, want)
		}
	}
	return raw, nil
}

func (r *Read) pickMember(ext, raw []byte) ([]byte, error) {
	if int(r.Member) >= len(ext)/8 {
		return nil, damage(24, "bundle of %d members has no number %d", len(ext)/8, r.Member)
	}
	off := uint32(0)
	for i := range r.Member {
		off += le.Uint32(ext[8*i+4:])
	}
	file, n := le.Uint32(ext[8*r.Member:]), le.Uint32(ext[8*r.Member+4:])
	if int64(n) != r.Size || r.File != 0 && file != r.File {
		return nil, damage(frameHead+8*int64(r.Member), "member of %d bytes of file %d, not %d of %d", n, file, r.Size, r.File)
	}
	part := raw[off : off+n]
	if DigestOf(part) != r.Digest {
		return nil, damage(frameHead+8*int64(r.Member), "digest of the member is not the file's")
	}
	return part, nil
}

// Runs splits the content of a run or list into its wanted pages, contiguous
// ones together: the first page's number and the bytes.
func (r *Read) Runs(raw []byte, blockSize int) iter.Seq2[uint32, []byte] {
	return func(yield func(uint32, []byte) bool) {
		for i := 0; i < int(r.Count); {
			if r.Live>>i&1 == 0 {
				i++
				continue
			}
			j := i + 1
			for j < int(r.Count) && r.Live>>j&1 == 1 && r.Page(j) == r.Page(j-1)+1 {
				j++
			}
			if !yield(r.Page(i), raw[i*blockSize:min(j*blockSize, len(raw))]) {
				return
			}
			i = j
		}
	}
}

// readInto fills b from an object.
func (r *Repo) readInto(ctx context.Context, key string, off int64, b []byte) (err error) {
	src, err := r.store.Get(ctx, key, off, int64(len(b)))
	if err != nil {
		return at(err, key, off)
	}
	_, err = io.ReadFull(src, b)
	return at(errors.Join(err, src.Close()), key, off)
}
