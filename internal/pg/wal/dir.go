package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pgtender/pgtender/internal/pg"
)

// Dir is a [Source] over a directory of segment files, such as pg_wal. Where
// several timelines of the history have a file for one segment, the newest one
// counts, as in PostgreSQL's recovery (xlogrecovery.c, XLogFileReadAnyTLI): it
// begins with a copy of the old one's WAL. A .partial file is looked at where
// none has the plain name.
type Dir struct {
	Path        string
	History     pg.History
	SegmentSize pg.SegmentSize
}

// Open opens the file for segment n.
func (d Dir) Open(ctx context.Context, n pg.SegmentNumber) (File, pg.Timeline, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	for _, suffix := range []string{"", ".partial"} {
		for _, t := range d.timelines(n) {
			name := pg.Segment{Timeline: t, Number: n}.Name(d.SegmentSize) + suffix
			f, err := os.Open(filepath.Join(d.Path, name))
			if err == nil {
				return f, t, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, 0, err
			}
		}
	}
	name := pg.Segment{Timeline: d.History.TimelineAt(d.SegmentSize.Start(n)), Number: n}.Name(d.SegmentSize)
	return nil, 0, fmt.Errorf("open WAL segment %s in %s: %w", name, d.Path, fs.ErrNotExist)
}

// timelines gives those that have bytes in segment n, the newest first.
func (d Dir) timelines(n pg.SegmentNumber) []pg.Timeline {
	var out []pg.Timeline
	start, end := d.SegmentSize.Start(n), d.SegmentSize.Start(n+1)
	add := func(t pg.Timeline) {
		begin, _ := d.History.Begin(t)
		left, gone := d.History.End(t)
		if begin < end && (!gone || left > start) {
			out = append(out, t)
		}
	}
	add(d.History.Timeline)
	for i := len(d.History.Forks) - 1; i >= 0; i-- {
		add(d.History.Forks[i].Parent)
	}
	return out
}
