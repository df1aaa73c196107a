package backup

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/durable"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// scan lists what belongs to the backup, in the manifest's order, without
// pg_control: that one is read last.
func scan(ctx context.Context, dir *pg.DataDir, blockSize int64, log *slog.Logger) ([]*file, error) {
	var files []*file
	for e, err := range dir.Entries(ctx) {
		if err != nil {
			return nil, fmt.Errorf("scan the data directory: %w", err)
		}
		switch {
		case e.Path == ".": // the directory that a restore is given
			continue
		case e.Kind == pg.KindSymlink:
			log.Warn("symbolic link is not part of the backup, as with pg_basebackup", "path", e.Path, "target", e.Link)
			continue
		case !e.Copied() || e.Kind == pg.KindControl:
			continue
		case durable.IsTemp(path.Base(e.Path)): // left behind by a killed restore
			continue
		}
		f := &file{class: e.Class, entry: repo.Entry{
			Path:     e.Path,
			Dir:      e.Kind == pg.KindDir || e.Mode.IsDir(),
			Mode:     fs.FileMode(e.Mode.Perm()),
			Modified: e.ModTime,
		}}
		if !f.entry.Dir {
			f.entry.Size = e.Size
			if f.relation() {
				// A page that is only half there is being added right now;
				// the server does not count it either.
				f.entry.Size -= e.Size % blockSize
			}
			if e.Size > repo.MaxFileSize {
				return nil, finding.WithHint(fmt.Errorf("scan the data directory: %s has %d bytes, and a backup holds no file above %d", e.Path, e.Size, int64(repo.MaxFileSize)),
					"what is not the server's own belongs elsewhere: move it out of the data directory")
			}
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b *file) int { return cmp.Compare(a.entry.Path, b.entry.Path) })
	number(files)
	return files, nil
}

// number gives every file its number, ascending by path from 1.
func number(files []*file) {
	n := uint32(0)
	for _, f := range files {
		if !f.entry.Dir {
			n++
			f.entry.File = n
		}
	}
}
