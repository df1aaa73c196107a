package repo

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// WALObject is one object of the archive, as a listing tells it.
type WALObject struct {
	Key     Key
	Segment pg.Segment // also of a partial file, a conflict or a backup history
	Object  storage.Object
}

// Conflicting reports whether the object stands beside another of its name.
func (o *WALObject) Conflicting() bool { return !o.Key.Conflict.IsZero() }

// Plain reports whether the object is the segment itself, under its own name.
func (o *WALObject) Plain() bool {
	return !o.Conflicting() && !o.Key.WAL.Partial && !o.Key.WAL.Backup
}

// Incarnations lists the timeline incarnations that have WAL, ascending by
// timeline, at one request each.
func (r *Repo) Incarnations(ctx context.Context) ([]Incarnation, error) {
	var out []Incarnation
	prefix := r.prefix + "wal/"
	for name, err := range skipScan(ctx, r.store, prefix, strings.Count(prefix, "/")+1) {
		if err != nil {
			return nil, fmt.Errorf("list timelines of %s: %w", r.cluster, err)
		}
		i, err := ParseIncarnation(strings.TrimPrefix(name, prefix))
		if err != nil {
			return nil, &CorruptError{Key: name, Offset: -1, What: err.Error()}
		}
		out = append(out, i)
	}
	return out, nil
}

// Segments lists what the archive holds of one incarnation from segment from
// on, ascending by segment, from names only. Other files of the same segment
// follow it. A key that is none is an error.
func (r *Repo) Segments(ctx context.Context, i Incarnation, size pg.SegmentSize, from pg.SegmentNumber) iter.Seq2[WALObject, error] {
	return func(yield func(WALObject, error) bool) {
		prefix := r.prefix + "wal/" + i.String() + "/"
		// Everything of segment from is greater than its name without the
		// last digit's end, and so is everything after it.
		first := r.Key(Key{Kind: KeyWAL, Incarnation: i, Group: walGroup(from), WAL: WALName{Segment: pg.Segment{Timeline: i.Timeline, Number: from}.Name(size)}})
		for o, err := range r.store.List(ctx, prefix, first[:len(first)-1]) {
			if err != nil {
				yield(WALObject{}, fmt.Errorf("list %s: %w", prefix, err))
				return
			}
			w, err := ParseWALObject(o, size)
			if err == nil && w.Segment.Number < from {
				continue
			}
			if !yield(w, err) || err != nil {
				return
			}
		}
	}
}

// SegmentFiles lists what the archive holds under the name of one segment: the
// segment itself, those that stand beside it, its .partial form and backup
// history files. It is one request, and its answer a few names.
func (r *Repo) SegmentFiles(ctx context.Context, i Incarnation, size pg.SegmentSize, n pg.SegmentNumber) ([]WALObject, error) {
	prefix := r.Key(Key{Kind: KeyWAL, Incarnation: i, Group: walGroup(n), WAL: WALName{Segment: pg.Segment{Timeline: i.Timeline, Number: n}.Name(size)}})
	var out []WALObject
	for o, err := range r.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		w, err := ParseWALObject(o, size)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

// QuarantinedFile is a file that nobody was proved to be right about. Nothing
// is served from there.
type QuarantinedFile struct {
	Key    Key // Incarnation, WAL and Conflict say what it is
	Object storage.Object
}

// Quarantine lists the files in quarantine, by incarnation and name.
func (r *Repo) Quarantine(ctx context.Context) ([]QuarantinedFile, error) {
	var out []QuarantinedFile
	for o, err := range r.store.List(ctx, r.prefix+"quarantine/", "") {
		if err != nil {
			return nil, fmt.Errorf("list quarantine of %s: %w", r.cluster, err)
		}
		k, err := ParseKey(o.Key)
		if err != nil {
			return nil, &CorruptError{Key: o.Key, Offset: -1, What: err.Error()}
		}
		out = append(out, QuarantinedFile{k, o})
	}
	return out, nil
}

// ParseWALObject parses a listed object of the archive.
func ParseWALObject(o storage.Object, size pg.SegmentSize) (WALObject, error) {
	bad := func(err error) (WALObject, error) {
		return WALObject{}, &CorruptError{Key: o.Key, Offset: -1, What: err.Error()}
	}
	k, err := ParseKey(o.Key)
	if err != nil {
		return bad(err)
	}
	if k.Kind != KeyWAL {
		return bad(errors.New("it is no key of the WAL archive"))
	}
	seg, err := pg.ParseSegment(k.WAL.Segment, size)
	if err != nil {
		return bad(err)
	}
	if walGroup(seg.Number) != k.Group {
		return bad(fmt.Errorf("segment %d is not of group %014X", seg.Number, k.Group))
	}
	return WALObject{Key: k, Segment: seg, Object: o}, nil
}
