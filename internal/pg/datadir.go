package pg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// DataDir is a data directory as [OpenDataDir] found it.
type DataDir struct {
	Root        string // absolute
	Layout      Layout
	Tablespaces []Tablespace // those behind links in pg_tblspc, by name
	WALLocation string       // where pg_wal leads if it is a link
}

// Entry is one file or directory of a data directory.
type Entry struct {
	Path string // below the data directory, with slashes; tablespaces under pg_tblspc/OID
	Class
	Size    int64 // bytes; of files
	Mode    fs.FileMode
	ModTime time.Time
	Link    string // where a symbolic link leads; set for KindSymlink, tablespaces and pg_wal
}

// OpenDataDir looks at what must be known of a data directory before it is
// walked: its tablespaces and its pg_wal. A tablespace that keeps its files
// inside the data directory or inside another tablespace is refused, since they
// would be copied twice; so is a link that leads nowhere. A directory in place of a link (allow_in_place_tablespaces) is
// an ordinary directory.
func OpenDataDir(root string, layout Layout) (*DataDir, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	d := &DataDir{Root: root, Layout: layout}
	if d.WALLocation, err = readLink(filepath.Join(root, "pg_wal")); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	links, err := os.ReadDir(filepath.Join(root, "pg_tblspc"))
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	for _, l := range links {
		oid, ok := parseOID(l.Name())
		if !ok || l.Type() != fs.ModeSymlink {
			continue
		}
		location, err := os.Readlink(filepath.Join(root, "pg_tblspc", l.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("open data directory: %w", err)
		}
		d.Tablespaces = append(d.Tablespaces, Tablespace{OID: oid, Location: location})
	}
	if err := d.checkLocations(); err != nil {
		return nil, err
	}
	return d, nil
}

// SameDir reports whether two paths lead to one directory, be one of them relative
// or a link. A path that is not there leads to none.
func SameDir(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

func readLink(name string) (string, error) {
	info, err := os.Lstat(name)
	if err != nil || info.Mode().Type() != fs.ModeSymlink {
		return "", err
	}
	return os.Readlink(name)
}

func (d *DataDir) checkLocations() error {
	type place struct{ what, path string }
	root, err := filepath.EvalSymlinks(d.Root)
	if err != nil {
		return fmt.Errorf("open data directory: %w", err)
	}
	places := []place{{"the data directory", root}}
	for _, s := range d.Tablespaces {
		link := filepath.Join(d.Root, "pg_tblspc", fmt.Sprint(s.OID))
		location, err := filepath.EvalSymlinks(link)
		if err != nil {
			if _, gone := os.Lstat(link); errors.Is(gone, fs.ErrNotExist) {
				continue // dropped meanwhile; the walk will not see it either
			}
			return fmt.Errorf("tablespace %d: its location %s cannot be reached: %w", s.OID, s.Location, err)
		}
		// Only this directory is the cluster's: a location that holds the data
		// directory beside it does no harm.
		mine := place{fmt.Sprintf("tablespace %d", s.OID), filepath.Join(location, d.Layout.VersionDir)}
		for _, p := range places {
			if within(p.path, mine.path) || within(mine.path, p.path) {
				return fmt.Errorf("%s (%s) and %s (%s) lie one inside the other, so files would be copied twice (hint: move the tablespace elsewhere)",
					mine.what, mine.path, p.what, p.path)
			}
		}
		places = append(places, mine)
	}
	return nil
}

// within reports whether name is dir or lies below it; both are clean.
func within(dir, name string) bool {
	rel, err := filepath.Rel(dir, name)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// Entries walks the data directory and its tablespaces, each directory before
// what is in it, otherwise by name. It yields what does not belong in a backup
// too, so that it can be told of (see [Class.Copied]), except the insides of
// directories whose contents are left out; in pg_wal it yields the directories
// of [Layout.EmptyDirs], be they there or not. Files and directories that vanish
// during the walk are passed over, as a running server removes some all the
// time. An error ends the walk. Memory is bounded by the largest directory.
func (d *DataDir) Entries(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		w := walker{d: d, ctx: ctx, yield: yield}
		root, err := os.Lstat(d.Root)
		if err == nil && root.Mode().Type() == fs.ModeSymlink {
			root, err = os.Stat(d.Root)
		}
		if err != nil {
			yield(Entry{}, fmt.Errorf("walk data directory: %w", err))
			return
		}
		if yield(Entry{Path: ".", Class: Class{Kind: KindDir}, Mode: root.Mode(), ModTime: root.ModTime()}, nil) {
			w.dir(".")
		}
	}
}

type walker struct {
	d     *DataDir
	ctx   context.Context
	yield func(Entry, error) bool
}

// dir yields what is in the directory; it reports whether to go on.
func (w walker) dir(rel string) bool {
	if err := context.Cause(w.ctx); err != nil {
		return w.fail(err)
	}
	entries, err := w.list(rel)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && rel != "." {
			return true
		}
		return w.fail(err)
	}
	for _, e := range entries {
		if !w.yield(e, nil) || !w.below(e) {
			return false
		}
	}
	return true
}

func (w walker) fail(err error) bool {
	w.yield(Entry{}, fmt.Errorf("walk data directory: %w", err))
	return false
}

// below yields what is in the directory e, if e is one and keeps its contents.
func (w walker) below(e Entry) bool {
	switch {
	case e.Kind != KindDir || slices.Contains(excludedContents, path.Base(e.Path)):
		return true
	case e.Path == "pg_wal":
		for _, dir := range w.d.Layout.EmptyDirs() {
			if dir != e.Path && !w.yield(Entry{Path: dir, Class: e.Class, Mode: e.Mode, ModTime: e.ModTime}, nil) {
				return false
			}
		}
		return true
	}
	return w.dir(e.Path)
}

// list reads a whole directory, since files of unlogged relations are known by
// their neighbours only.
func (w walker) list(rel string) ([]Entry, error) {
	names, err := os.ReadDir(filepath.Join(w.d.Root, filepath.FromSlash(rel)))
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(names))
	classes := make([]Class, 0, len(names))
	for _, n := range names {
		e, err := w.entry(path.Join(rel, n.Name()), n)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
		classes = append(classes, e.Class)
	}
	for i, c := range DropUnlogged(classes) {
		entries[i].Class = c
	}
	return entries, nil
}

func (w walker) entry(rel string, n fs.DirEntry) (Entry, error) {
	info, err := n.Info()
	if err != nil {
		return Entry{}, err
	}
	name := filepath.Join(w.d.Root, filepath.FromSlash(rel))
	e := Entry{Path: rel, Mode: info.Mode(), ModTime: info.ModTime()}
	switch info.Mode().Type() {
	case 0:
		e.Size = info.Size()
		e.Class = w.d.Layout.Classify(rel, false)
	case fs.ModeDir:
		e.Class = w.d.Layout.Classify(rel, true)
	case fs.ModeSymlink:
		if e.Link, err = os.Readlink(name); err != nil {
			return Entry{}, err
		}
		return w.link(e, name)
	default:
		e.Class = Class{Kind: KindSpecial}
	}
	return e, nil
}

// link follows the links that BASE_BACKUP takes for directories: tablespaces,
// pg_wal, and those whose contents are left out anyway. Any other is reported.
func (w walker) link(e Entry, name string) (Entry, error) {
	e.Class = Class{Kind: KindSymlink}
	if c := w.d.Layout.Classify(e.Path, false); !c.Copied() {
		e.Class = c
		return e, nil
	}
	emptied := e.Path == "pg_wal" || slices.Contains(excludedContents, path.Base(e.Path))
	if !emptied && !w.d.tablespaceLink(e.Path) {
		return e, nil
	}
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		e.Mode, e.ModTime = info.Mode(), info.ModTime()
	case emptied: // wherever it leads, a backup has an empty directory there
		e.Mode = fs.ModeDir | 0o700
	case err != nil:
		return e, err
	default:
		return e, nil
	}
	e.Kind = KindDir
	return e, nil
}

func (d *DataDir) tablespaceLink(rel string) bool {
	dir, name := path.Split(rel)
	return dir == "pg_tblspc/" && slices.ContainsFunc(d.Tablespaces, func(s Tablespace) bool { return fmt.Sprint(s.OID) == name })
}
