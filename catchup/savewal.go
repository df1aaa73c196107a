package catchup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/durable"
	"github.com/pgtender/pgtender/internal/pg"
)

// saveWAL keeps the WAL of old data that may be in no archive: what waits for
// the archiver, what only seems to be archived, and what was being written. The
// former two are pushed; the latter, and what cannot be pushed, goes to a directory
// beside the data directory: Patroni removes what lies inside when its last method
// fails.
func (r *runner) saveWAL(ctx context.Context) error {
	dir := filepath.Join(r.dir(), "pg_wal")
	names, err := unarchived(dir)
	if err != nil {
		return fmt.Errorf("look for unarchived WAL: %w", err)
	}
	for _, name := range r.state.OnlyHere {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			names = append(names, walFile{name, true})
		}
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !name.complete && r.leaderHas(name.file) {
			continue
		}
		if err := r.save(ctx, filepath.Join(dir, name.file), name.complete); err != nil {
			return err
		}
		if name.complete {
			if err := r.files.Remove(filepath.Join(dir, "archive_status", name.file+".ready")); err != nil {
				return fmt.Errorf("save unarchived WAL: %w", err)
			}
		}
	}
	return nil
}

// onlyHere lists the segments of old data that are marked as archived, and which
// the archive lacks. A standby marks what it receives, whoever has archived it
// (XLogArchiveForceDone, walreceiver.c): what it has of a branch that is given up
// may be all there is of it, and so may what the leader has removed long ago. Where
// the data ends does not count: a standby receives more than it has replayed.
func (r *runner) onlyHere(ctx context.Context) ([]string, error) {
	l := r.plan.Local
	if l == nil || l.History.Timeline == 0 {
		return r.state.OnlyHere, nil // of another way that was begun, or nothing is known
	}
	dir, size := filepath.Join(r.dir(), "pg_wal"), l.control.SegmentSize
	found, err := archive.Unarchived(ctx, r.opts.Repo, l.History, size, dir, pg.MaxLSN, map[pg.Segment]bool{})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for unarchived WAL: %w", err)
	}
	found = slices.DeleteFunc(found, func(s archive.LocalSegment) bool {
		return l.followed() && r.plan.kept != 0 && size.Start(s.Number) >= r.plan.kept
	})
	var out []string
	for _, s := range found {
		name := s.Name(size)
		_, err := os.Lstat(filepath.Join(dir, "archive_status", name+".done"))
		if err == nil {
			out = append(out, name)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("look for unarchived WAL: %w", err)
		}
	}
	return out, nil
}

// leaderHas reports whether a segment that was being written is the leader's too:
// on its timeline, and not past what it has. It goes by the state, since a run that
// goes on cannot tell whose WAL it is any more.
func (r *runner) leaderHas(name string) bool {
	if !r.state.Followed {
		return false
	}
	size := r.plan.Backup.SegmentSize
	seg, err := pg.ParseSegment(name, size)
	return err == nil && archive.Serves(r.plan.Lineage.History, size, seg) && size.Start(seg.Number) <= r.plan.flushed
}

func (r *runner) save(ctx context.Context, path string, complete bool) error {
	if complete && r.opts.Archive != nil {
		err := r.opts.Archive(ctx, path)
		if err == nil {
			r.log.InfoContext(ctx, "unarchived WAL of the old data was archived", "segment", filepath.Base(path))
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.log.WarnContext(ctx, "unarchived WAL of the old data could not be archived", "segment", filepath.Base(path), "error", err)
	}
	kept, err := r.keepBeside(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // .ready of a file that is gone; the archiver passes it over too
	}
	if err != nil {
		r.log.WarnContext(ctx, "unarchived WAL of the old data cannot be kept beside the data directory, and is kept in it", "file", filepath.Base(path), "error", err)
		kept, err = keep(path, workPath(r.dir(), savedName))
	}
	if err != nil {
		return fmt.Errorf("save unarchived WAL: %w", err)
	}
	r.result.Saved = append(r.result.Saved, kept)
	r.log.WarnContext(ctx, "unarchived WAL of the old data is kept; remove it if nobody needs it", "file", kept)
	return nil
}

// SavedWAL gives the directory beside a data directory in which WAL is kept that
// only the data replaced there had, and that could not be archived.
func SavedWAL(dataDir string) string { return filepath.Clean(dataDir) + ".pgtender-wal" }

func (r *runner) keepBeside(path string) (string, error) {
	if _, err := os.Lstat(path); err != nil {
		return "", err
	}
	kept, err := keep(path, SavedWAL(r.dir()))
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s: the directory cannot be made", SavedWAL(r.dir()))
	}
	return kept, err
}

// keep copies a file into a directory, which it makes if it is missing. One of
// the same name and other content stays too.
func keep(path, dir string) (_ string, err error) {
	if err := (durable.FS{}).MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	// It may lie on another file system than pg_wal.
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	digest, err := digestOf(f)
	if err != nil {
		return "", err
	}
	kept := filepath.Join(dir, filepath.Base(path))
	if there, err := os.Open(kept); err == nil {
		same, err := digestOf(there)
		if err := errors.Join(err, there.Close()); err != nil {
			return "", err
		}
		if same == digest {
			return kept, nil
		}
		kept += "~" + digest.String()[:16]
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return kept, durable.FS{}.WriteFrom(kept, f, 0o600)
}

func digestOf(r io.Reader) (repo.Digest, error) {
	d := repo.NewDigester()
	_, err := io.Copy(d, r)
	return d.Digest(), err
}

// walFile is a file of pg_wal that may be nowhere else.
type walFile struct {
	file     string
	complete bool // PostgreSQL offered it to the archiver
}

// unarchived lists the files of a pg_wal that are marked .ready, and the
// segments with no mark at all that hold WAL of their own name: the one that
// was being written. Segments recycled for later hold other addresses.
func unarchived(dir string) ([]walFile, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	status := map[string]string{}
	marks, err := os.ReadDir(filepath.Join(dir, "archive_status"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []walFile
	for _, m := range marks {
		name, mark, ok := cutLast(m.Name())
		if !ok {
			continue
		}
		status[name] = mark
		if mark == "ready" {
			out = append(out, walFile{name, true})
		}
	}
	for _, e := range entries {
		if status[e.Name()] != "" || !e.Type().IsRegular() {
			continue
		}
		written, err := holdsOwnWAL(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if written {
			out = append(out, walFile{e.Name(), false})
		}
	}
	return out, nil
}

func cutLast(name string) (before, after string, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

// holdsOwnWAL reports whether the first page of a segment file is that of the
// segment it is named after.
func holdsOwnWAL(path string) (bool, error) {
	head, err := readHead(path)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return false, nil
	}
	return err == nil && ownHead(filepath.Base(path), head), err
}
