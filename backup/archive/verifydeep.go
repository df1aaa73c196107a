package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// inspect reads the content of every object, and adds what is wrong to the
// faults. Memory: a segment for each of at most four processors.
func (v *Verified) inspect(ctx context.Context, w *walk, objects map[pg.SegmentNumber]repo.WALObject, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	numbers := slices.Sorted(maps.Keys(objects))
	numbers = slices.DeleteFunc(numbers, func(n pg.SegmentNumber) bool { return v.faulty(n) })
	found := make([]error, len(numbers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(min(4, runtime.GOMAXPROCS(0)))
	for i, n := range numbers {
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			err := w.inspect(gctx, objects[n])
			if err != nil && !errors.Is(err, repo.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err != nil {
				log.ErrorContext(gctx, "archived segment is damaged", "segment", objects[n].Key.WAL.String(), "error", err)
			}
			found[i] = err
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	v.Bytes += int64(len(numbers)) * int64(w.size)
	for i, err := range found {
		if err != nil {
			o := objects[numbers[i]]
			v.Faults = append(v.Faults, FaultSpan{Fault: Fault{Kind: FaultDamaged, Segment: o.Segment, At: w.size.Start(o.Segment.Number), Err: err}, Last: o.Segment})
		}
	}
	slices.SortStableFunc(v.Faults, func(a, b FaultSpan) int { return cmp.Compare(a.Segment.Number, b.Segment.Number) })
	return nil
}

// compareIndex makes a group's index anew from the segments' objects, and
// compares.
func (v *Verified) compareIndex(ctx context.Context, w *walk, p *part, objects map[pg.SegmentNumber]repo.WALObject) error {
	var list []repo.WALObject
	for n := p.first(); n <= p.last(); n++ {
		list = append(list, objects[n])
	}
	anew, unfit, err := joinGroup(ctx, w.repo, list, nil)
	if err != nil {
		return err
	}
	if unfit != nil {
		if errors.Is(unfit, repo.ErrCorrupt) || errors.Is(unfit, fs.ErrNotExist) {
			return nil // the inspection of the segments says so
		}
	} else if got, want := p.index(), anew.index(); slices.Equal(got.Headers, want.Headers) && bytes.Equal(got.BlockMap, want.BlockMap) && bytes.Equal(got.Carry, want.Carry) {
		return nil
	} else {
		unfit = errors.New("its segments say otherwise")
	}
	h := &p.headers[0]
	v.Faults = append(v.Faults, FaultSpan{
		Fault: Fault{
			Kind: FaultIndex, Segment: pg.Segment{Timeline: h.Incarnation.Timeline, Number: h.Segment}, At: h.Start(),
			Err: fmt.Errorf("%s: %w: %w", w.repo.WALIndexKey(h.Incarnation, repo.GroupOf(h.Segment)), repo.ErrCorrupt, unfit),
		},
		Last: pg.Segment{Timeline: h.Incarnation.Timeline, Number: p.last()},
	})
	return nil
}

// inspect reads a segment whole and compares it with what is stored about it.
func (w *walk) inspect(ctx context.Context, o repo.WALObject) error {
	key := o.Object.Key
	meta, err := w.repo.ReadWALMeta(ctx, key, o.Object.Size)
	if err != nil {
		return err
	}
	source := Source{Repo: w.repo, History: w.history, SegmentSize: w.size}
	f, err := source.archived(ctx, key)
	if err != nil {
		return err
	}
	defer f.Close() // opened for reading
	if !wasRead(&meta.Header) {
		return nil // what it holds is as it was pushed; nothing is claimed about it
	}
	in, err := wal.InspectFile(f, int64(w.size), wal.Expect{SystemID: w.repo.Cluster().SystemID, SegmentSize: w.size, Segment: o.Segment})
	if errors.Is(err, wal.ErrCorrupt) || errors.Is(err, wal.ErrForeign) {
		return fmt.Errorf("%s: %w: %w", key, repo.ErrCorrupt, err)
	}
	if err != nil {
		return fmt.Errorf("inspect %s: %w", key, err)
	}
	if what := differs(&meta, in); what != "" {
		return fmt.Errorf("%s: %w: what is stored about the segment is not what its WAL says: %s", key, repo.ErrCorrupt, what)
	}
	return nil
}

// differs says in what a segment's stored description differs from what was
// found in it.
func differs(meta *repo.WALMeta, in *wal.Inspection) string {
	stored, err := infoOf(&meta.Header)
	if err != nil {
		return err.Error()
	}
	found := in.Info
	// The format has no place for these; what they mean for changes it has.
	found.Flags &= kept()
	if stored != found {
		return fmt.Sprintf("its description is %+v, and was %+v", found, stored)
	}
	if broken := meta.Header.Flags&repo.WALChainBreak != 0; broken != in.Info.Flags.BreaksChain() {
		return fmt.Sprintf("changes cannot be told: %v, and was %v", !broken, broken)
	} else if !broken && !bytes.Equal(meta.BlockMap, in.Map.Encode()) {
		return "its block map differs"
	}
	if !bytes.Equal(meta.Carry, in.Carry.Encode()) {
		return "its carry differs"
	}
	return ""
}

// kept gives the flags that the format has.
func kept() (f wal.Flags) {
	for _, p := range flagPairs {
		f |= p.wal
	}
	return f
}
