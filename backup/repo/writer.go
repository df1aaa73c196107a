package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pgtender/pgtender/backup/storage"
)

// WriteOptions modify the writing of one backup.
type WriteOptions struct {
	BlockSize int // of the cluster, bytes; 0 means 8192
	PackSize  int // bytes at which a pack is put; 0 means 32 MiB
	Uploads   int // packs being put at the same time; 0 means 2

	// BeforeCommit, if not nil, is called last before the manifest is put,
	// when everything else is stored and proved. An error stops the commit.
	BeforeCommit func(context.Context) error
}

const (
	defaultPackSize = 32 << 20
	// maxPackFrames closes a pack of tiny frames early: its index would
	// otherwise grow larger than its frames.
	maxPackFrames = 16384
	// packSlack is room behind the frames for one more frame and the index
	// of an ordinary pack, so that buffers are not moved.
	packSlack = 1 << 20
)

// Writer writes one backup. Its methods are safe for concurrent use.
//
// Memory: a buffer of PackSize + 1 MiB for each open PackWriter and for each
// upload in flight, and one for maps.
type Writer struct {
	repo      *Repo
	id        BackupID
	opts      WriteOptions
	blockSize int

	// ctx ends with the context of Create, with the first failure and with
	// Close. Puts run on it, so that none outlives its reason.
	ctx    context.Context
	cancel context.CancelCauseFunc

	slots chan struct{} // one per upload in flight
	wg    sync.WaitGroup

	number      atomic.Uint32 // the last pack number given away
	open        atomic.Int32  // PackWriters not closed yet
	raw, frames atomic.Int64

	mu    sync.Mutex
	free  [][]byte // buffers for re-use
	packs []Pack   // stored, in no order
	done  bool     // closed

	mapsMu sync.Mutex
	maps   *PackWriter // guarded by mapsMu; nil until the first map
}

// Create begins to write a backup. Nothing is stored yet. The backup exists
// once Commit has returned; the caller calls Close in any case. Once ctx is
// done nothing more is stored.
func (r *Repo) Create(ctx context.Context, id BackupID, opts WriteOptions) (*Writer, error) {
	if err := r.cluster.Validate(); err != nil {
		return nil, fmt.Errorf("create backup: %w", err)
	}
	if !id.valid() {
		return nil, fmt.Errorf("create backup: id %d is not valid", uint64(id))
	}
	if opts.BlockSize == 0 {
		opts.BlockSize = 8192
	}
	if opts.PackSize == 0 {
		opts.PackSize = defaultPackSize
	}
	if opts.Uploads == 0 {
		opts.Uploads = 2
	}
	// A map frame may follow when a pack is nearly full, hence the reserve.
	if !validBlockSize(opts.BlockSize) || opts.PackSize < 0 || opts.PackSize > maxPack/2 || opts.Uploads < 0 {
		return nil, fmt.Errorf("create backup %s: block size %d, pack size %d, %d uploads: out of range", id, opts.BlockSize, opts.PackSize, opts.Uploads)
	}
	w := &Writer{repo: r, id: id, opts: opts, blockSize: opts.BlockSize, slots: make(chan struct{}, opts.Uploads)}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	return w, nil
}

// ID gives the id of the backup being written.
func (w *Writer) ID() BackupID { return w.id }

// BlockSize gives the block size of the backup being written, in bytes.
func (w *Writer) BlockSize() int { return w.blockSize }

var errClosed = errors.New("writer is closed")

// Close ends all uploads and waits for them. What Commit has not committed
// stays behind as packs that no manifest names.
func (w *Writer) Close() {
	w.cancel(errClosed)
	w.mu.Lock()
	w.done = true // no upload starts any more
	w.free = nil
	w.mu.Unlock()
	w.wg.Wait()
}

// fail remembers the first failure and stops everything else.
func (w *Writer) fail(err error) error {
	w.cancel(err)
	return w.failure()
}

// failure is the reason for which the writer stopped, nil while it works.
func (w *Writer) failure() error {
	if err := w.ctx.Err(); err == nil {
		return nil
	}
	return fmt.Errorf("write backup %s: %w", w.id, context.Cause(w.ctx))
}

func (w *Writer) usable(ctx context.Context) error {
	if err := w.failure(); err != nil {
		return err
	}
	return storage.ContextError(ctx)
}

func (w *Writer) buffer() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.free); n > 0 {
		b := w.free[n-1]
		w.free = w.free[:n-1]
		return b[:0]
	}
	return make([]byte, 0, w.opts.PackSize+packSlack)
}

// upload puts a finished pack in the background. It waits while as many as
// allowed are in flight.
func (w *Writer) upload(ctx context.Context, number uint32, buf []byte) error {
	select {
	case w.slots <- struct{}{}:
	case <-w.ctx.Done():
		return w.failure()
	case <-ctx.Done():
		return storage.ContextError(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		<-w.slots
		return w.failure()
	}
	ref := PackRef{Backup: w.id, Number: number}
	w.wg.Go(func() {
		defer func() { <-w.slots }()
		err := w.failure() // the select above may have chosen the slot
		if err == nil {
			err = w.repo.put(w.ctx, w.repo.packKey(ref), bytes.NewReader(buf), int64(len(buf)))
		}
		if err != nil {
			w.fail(err)
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.packs = append(w.packs, Pack{ref, int64(len(buf))})
		if cap(buf) <= w.opts.PackSize+packSlack {
			w.free = append(w.free, buf)
		}
	})
	return nil
}

func (r *Repo) packKey(ref PackRef) string {
	return r.Key(Key{Kind: KeyPack, ID: ref.Backup, Number: ref.Number})
}

// finish flushes what WriteMap holds and waits until every pack is stored.
func (w *Writer) finish(ctx context.Context) error {
	if n := w.open.Load(); n > 0 {
		return fmt.Errorf("write backup %s: %d pack writers are not closed", w.id, n)
	}
	w.mapsMu.Lock()
	maps := w.maps
	w.mapsMu.Unlock()
	if maps != nil {
		if err := maps.flush(ctx); err != nil {
			return err
		}
	}
	w.wg.Wait()
	return w.usable(ctx)
}

// stored gives the packs of this backup so far, ascending.
func (w *Writer) stored() []Pack {
	w.mu.Lock()
	defer w.mu.Unlock()
	packs := slices.Clone(w.packs)
	slices.SortFunc(packs, comparePacks)
	return packs
}

// WriteMap stores the page map of one file, and the frame table of the pages
// that this backup stores itself. The frames may be in any order. Where m names
// this backup as a generation, its File and Table are filled in, and every page
// of that generation must be in the frames; where it does not, there must be no
// frames. older are the packs of older backups that hold live pages of the file
// or the tables that lead there. What is given back belongs into the file's
// [Entry].
func (w *Writer) WriteMap(ctx context.Context, file uint32, frames []Frame, m PageMap, older []PackRef) (MapRef, error) {
	frames = slices.Clone(frames)
	slices.SortFunc(frames, func(a, b Frame) int { return int(int64(a.First) - int64(b.First)) })
	m.Generations = slices.Clone(m.Generations)
	own := slices.IndexFunc(m.Generations, func(g Generation) bool { return g.Backup == w.id })
	if (own >= 0) != (len(frames) > 0) {
		return MapRef{}, fmt.Errorf("write page map of file %d: %d frames, but generation %s is at %d in the map", file, len(frames), w.id, own)
	}

	if own >= 0 {
		if err := m.covered(own, frames); err != nil {
			return MapRef{}, fmt.Errorf("write page map of file %d: %w", file, err)
		}
	}

	packs := slices.Clone(older)
	for i, g := range m.Generations {
		if i != own && !slices.Contains(packs, PackRef{g.Backup, g.Table.Pack}) {
			return MapRef{}, fmt.Errorf("write page map of file %d: the pack with the frame table of generation %s is not among those that it leans on", file, g.Backup)
		}
	}
	for i := range frames {
		if ref := (PackRef{w.id, frames[i].Pack}); !slices.Contains(packs, ref) {
			packs = append(packs, ref)
		}
	}

	w.mapsMu.Lock()
	defer w.mapsMu.Unlock()
	if w.maps == nil {
		w.maps = w.newPackWriter(packMaps)
	}
	if own >= 0 {
		table, err := appendTable(nil, frames)
		if err != nil {
			return MapRef{}, fmt.Errorf("write frame table of file %d: %w", file, err)
		}
		place, err := w.maps.write(ctx, &frameHeader{kind: FrameTables, file: file}, nil, table)
		if err != nil {
			return MapRef{}, err
		}
		m.Generations[own].File, m.Generations[own].Table = file, place
		packs = append(packs, PackRef{w.id, place.Pack})
	}
	b, err := m.append(nil)
	if err != nil {
		return MapRef{}, fmt.Errorf("write page map of file %d: %w", file, err)
	}
	place, err := w.maps.write(ctx, &frameHeader{kind: FramePageMap, file: file}, nil, b)
	return MapRef{Place: place, File: file, Packs: packs}, err
}
