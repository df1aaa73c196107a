package catchup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/pgtender/pgtender/backup/repo"
)

// prune removes what the backup does not have from the directories that are the
// server's: relations and databases of the other branch, what is left out of
// backups. What is the operator's stays; WAL is leaveWAL's.
func (r *runner) prune(ctx context.Context) error {
	r.meter.phase(PhaseRemoving, 0)
	if err := r.checkPlaces(); err != nil {
		return err
	}
	keep := map[repo.Digest]bool{} // a path takes more memory
	for e, err := range r.manifest.Entries(ctx) {
		if err != nil {
			return fmt.Errorf("list backup %s: %w", r.plan.Backup.ID, err)
		}
		if !notRestored(e.Path) {
			keep[pathKey(e.Path, e.Dir)] = true
		}
	}
	p := &pruner{runner: r, keep: keep}
	if err := p.top(ctx); err != nil {
		return err
	}
	for _, place := range r.plan.Places {
		if err := p.place(ctx, place); err != nil {
			return err
		}
	}
	return nil
}

func pathKey(name string, dir bool) repo.Digest {
	if dir {
		name += "/"
	}
	return repo.DigestOf([]byte(name))
}

type pruner struct {
	*runner
	keep map[repo.Digest]bool
}

// top goes through the data directory.
func (p *pruner) top(ctx context.Context) error {
	entries, err := os.ReadDir(p.dir())
	if err != nil {
		return fmt.Errorf("remove what the backup does not have: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		own := filepath.Join(p.dir(), name)
		switch {
		case ignored(name) || name == "pg_wal":
		case name == "pg_tblspc" && e.IsDir():
			err = p.links(ctx, own)
		case slices.Contains(signalsGone, name):
			err = p.files.Remove(own)
		case !serversOwn(name, e.IsDir()):
		case e.IsDir():
			err = p.below(ctx, own, name)
		case !p.keep[pathKey(name, false)] || !e.Type().IsRegular():
			err = p.files.Remove(own)
		}
		if err != nil {
			return fmt.Errorf("remove what the backup does not have: %w", err)
		}
	}
	return p.files.SyncDir(p.dir())
}

// links removes links to tablespaces that the backup does not have, or has
// elsewhere.
func (p *pruner) links(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		own := filepath.Join(dir, e.Name())
		if e.IsDir() {
			// A tablespace inside the data directory (allow_in_place_tablespaces).
			name := path.Join("pg_tblspc", e.Name())
			if !p.keep[pathKey(name, true)] {
				err = os.RemoveAll(own)
			} else {
				err = p.below(ctx, own, name)
			}
		} else if !p.linked(e.Name(), own) {
			err = os.Remove(own)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pruner) linked(name, link string) bool {
	oid, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return false
	}
	to, err := filepath.EvalSymlinks(link)
	return err == nil && slices.ContainsFunc(p.plan.Places, func(pl Place) bool { return pl.OID == uint32(oid) && pl.OID != 0 && pl.Location == to })
}

// place goes through a directory outside of the data directory.
func (p *pruner) place(ctx context.Context, place Place) error {
	var err error
	switch _, statErr := os.Stat(place.Path); {
	case errors.Is(statErr, fs.ErrNotExist):
		return nil // it is new
	case statErr != nil:
		err = statErr
	case place.OID == 0:
		return nil
	default:
		version := filepath.Base(place.Path)
		err = p.below(ctx, place.Path, path.Join("pg_tblspc", strconv.FormatUint(uint64(place.OID), 10), version))
	}
	if err != nil {
		return fmt.Errorf("remove what the backup does not have: %w", err)
	}
	return nil
}

// below goes through a directory whose name in the backup is given.
func (p *pruner) below(ctx context.Context, dir, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		own, in := filepath.Join(dir, e.Name()), path.Join(name, e.Name())
		switch {
		case e.Name() == markerName && e.Type().IsRegular():
		case e.IsDir() && p.keep[pathKey(in, true)]:
			err = p.below(ctx, own, in)
		case e.IsDir():
			err = os.RemoveAll(own)
		case !p.keep[pathKey(in, false)] || !e.Type().IsRegular():
			err = os.Remove(own)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
