package catchup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/durable"
	"github.com/pgtender/pgtender/internal/pg"
)

// tree is where the files of a backup go: the stage, and the places that
// tablespaces have outside of the data directory. Nothing is written by a path
// from the root: if somebody removes a directory under the run, what is written
// afterwards fails instead of turning up in a directory of the same name.
type tree struct {
	stage   *os.Root            // in place: the data directory itself
	aside   *os.Root            // in place: where pg_control goes; nil: into the stage
	spaces  map[uint32]*os.Root // by OID: the directory named after the version
	wal     *os.Root            // where pg_wal leads; nil if it is in the stage
	version string
	mode    fs.FileMode // of the data directory

	// sizes remembers what size found, by the digest of the path, while nobody
	// writes; nil: it looks each time. Not safe for concurrent use.
	sizes map[repo.Digest]int64

	mu   sync.Mutex
	last opened // guarded by mu
}

// opened is the directory in which a file was looked for last: whoever goes through
// a backup looks for one after the other there.
type opened struct {
	in  *os.Root
	dir string
	at  *os.Root // nil: none
}

// openTree opens the directories of a plan, which exist.
func openTree(p *Plan) (_ *tree, err error) {
	t := &tree{spaces: map[uint32]*os.Root{}, version: pg.TablespaceVersionDir(p.Backup.Major(), p.Backup.CatalogVersion), mode: 0o700}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.stage, err = os.OpenRoot(workPath(p.Dir.Path, stageName)); err != nil {
		return nil, fmt.Errorf("open stage: %w", err)
	}
	for _, place := range p.Places {
		root, err := os.OpenRoot(place.Path)
		if err != nil {
			return nil, fmt.Errorf("open directory of the cluster's: %w", err)
		}
		if place.OID == 0 {
			t.wal = root
		} else {
			t.spaces[place.OID] = root
		}
	}
	return t, nil
}

// openInPlace opens a data directory to be converged, with the directories
// outside of it that exist. The new pg_control goes to aside; "" is for looking
// only.
func openInPlace(dir, aside string, places []Place, b *repo.Backup) (_ *tree, err error) {
	t := &tree{spaces: map[uint32]*os.Root{}, version: pg.TablespaceVersionDir(b.Major(), b.CatalogVersion), mode: 0o700}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.stage, err = os.OpenRoot(dir); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	if aside != "" {
		if t.aside, err = os.OpenRoot(aside); err != nil {
			return nil, fmt.Errorf("open stage: %w", err)
		}
	}
	for _, place := range places {
		root, err := os.OpenRoot(place.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && aside == "":
		case err != nil:
			return nil, fmt.Errorf("open directory of the cluster's: %w", err)
		case place.OID == 0:
			t.wal = root
		default:
			t.spaces[place.OID] = root
		}
	}
	return t, nil
}

func (t *tree) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last.at != nil {
		t.last.at.Close()
		t.last = opened{}
	}
	for _, r := range t.roots() {
		if r != nil {
			r.Close()
		}
	}
}

// find says where a path of the backup goes. The root is nil for a
// tablespace's link, which is not made before the end.
func (t *tree) find(name string) (root *os.Root, rel string, err error) {
	if name == pg.ControlPath && t.aside != nil {
		return t.aside, asideName, nil
	}
	if rest, ok := strings.CutPrefix(name+"/", "pg_wal/"); ok && t.wal != nil {
		return t.wal, path.Join(".", rest), nil
	}
	rest, ok := strings.CutPrefix(name, "pg_tblspc/")
	if !ok {
		return t.stage, name, nil
	}
	oid, below, _ := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(oid, 10, 32)
	if err != nil || t.spaces[uint32(n)] == nil {
		return t.stage, name, nil // a tablespace inside the data directory
	}
	version, rel, _ := strings.Cut(below, "/")
	switch {
	case below == "":
		return nil, "", nil
	case version != t.version:
		return nil, "", fmt.Errorf("the backup holds %s, but the cluster's part of a tablespace is %s", name, t.version)
	case rel == "":
		rel = "."
	}
	return t.spaces[uint32(n)], rel, nil
}

// mkdir makes a directory of the backup unless it is there, with its mode.
func (t *tree) mkdir(name string, mode fs.FileMode) error {
	root, rel, err := t.find(name)
	if err != nil || root == nil {
		return err
	}
	mode = dirMode(mode)
	if err := root.Mkdir(rel, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make directory %s: %w", name, err)
	}
	// The umask may have taken bits away; Patroni sets one.
	if err := root.Chmod(rel, mode); err != nil {
		return fmt.Errorf("make directory %s: %w", name, err)
	}
	if name == "global" {
		// The data directory is not in the backup, but has the same mode:
		// group access is for all directories of a cluster or none.
		t.mode = mode
	}
	return nil
}

// dirMode and fileMode give the permissions on the source, as far as a server
// accepts them: its owner may do everything, others nothing, the group at most
// read (checkDataDir, miscinit.c).
func dirMode(m fs.FileMode) fs.FileMode  { return m&0o750 | 0o700 }
func fileMode(m fs.FileMode) fs.FileMode { return m&0o777 | 0o600 }

// create makes an empty file, or empties the one that is there.
func (t *tree) create(name string, mode fs.FileMode) (*os.File, error) {
	root, rel, err := t.find(name)
	if err != nil {
		return nil, err
	}
	if root == nil {
		return nil, fmt.Errorf("the backup holds a file %s in place of a tablespace's link", name)
	}
	f, err := root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode(mode))
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	if err := f.Chmod(fileMode(mode)); err != nil {
		return nil, errors.Join(fmt.Errorf("create %s: %w", name, err), f.Close())
	}
	return f, nil
}

// grow opens a file of the directory's without emptying it, or makes it, and
// gives it a size.
func (t *tree) grow(name string, mode fs.FileMode, size int64) (err error) {
	root, rel, err := t.find(name)
	if err != nil {
		return err
	}
	if root == nil {
		return fmt.Errorf("the backup holds a file %s in place of a tablespace's link", name)
	}
	f, err := root.OpenFile(rel, os.O_WRONLY|os.O_CREATE, fileMode(mode))
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.Size() < size && size >= reserveFrom:
		err = reserve(f, size)
	case info.Size() != size:
		err = f.Truncate(size)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set the size of %s: %w", name, err)
	}
	return nil
}

// equal reports whether the directory's file has the content of an entry with a
// digest.
func (t *tree) equal(e *repo.Entry) (_ bool, err error) {
	if e.Size == 0 || e.Digest.IsZero() {
		return e.Size == 0, nil
	}
	f, err := t.open(e.Path, os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	d := repo.NewDigester()
	if _, err := io.Copy(d, f); err != nil {
		return false, fmt.Errorf("read %s: %w", e.Path, err)
	}
	return d.Digest() == e.Digest, nil
}

// open opens a file that create has made.
func (t *tree) open(name string, flag int) (*os.File, error) {
	root, rel, err := t.find(name)
	if err != nil {
		return nil, err
	}
	f, err := root.OpenFile(rel, flag, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return f, nil
}

// size gives the size of a file, -1 if there is none.
func (t *tree) size(name string) int64 {
	if t.sizes == nil {
		return t.look(name)
	}
	key := repo.DigestOf([]byte(name))
	n, ok := t.sizes[key]
	if !ok {
		n = t.look(name)
		t.sizes[key] = n
	}
	return n
}

func (t *tree) look(name string) int64 {
	root, rel, err := t.find(name)
	if err != nil || root == nil {
		return -1
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.enter(root, path.Dir(rel)); err != nil {
		return -1
	}
	info, err := t.last.at.Lstat(path.Base(rel))
	if err != nil || !info.Mode().IsRegular() {
		return -1
	}
	return info.Size()
}

// enter makes a directory the last one. The caller holds mu.
func (t *tree) enter(root *os.Root, dir string) error {
	if t.last.at != nil && t.last.in == root && t.last.dir == dir {
		return nil
	}
	at, err := root.OpenRoot(dir)
	if err != nil {
		return err
	}
	if t.last.at != nil {
		t.last.at.Close()
	}
	t.last = opened{in: root, dir: dir, at: at}
	return nil
}

// syncDirs makes the entries of all directories durable; the files are synced
// as they become whole.
func (t *tree) syncDirs() error {
	g := errgroup.Group{}
	g.SetLimit(syncers)
	for _, root := range t.roots() {
		err := fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				g.Go(func() error { return syncIn(root, name) })
			}
			return err
		})
		if err := errors.Join(err, g.Wait()); err != nil {
			return fmt.Errorf("sync directories of %s: %w", root.Name(), err)
		}
	}
	return nil
}

func syncIn(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (t *tree) roots() []*os.Root {
	roots := []*os.Root{t.stage}
	if t.aside != nil {
		roots = append(roots, t.aside)
	}
	if t.wal != nil {
		roots = append(roots, t.wal)
	}
	for _, r := range t.spaces {
		roots = append(roots, r)
	}
	return roots
}

// stagePath gives the path of something in the stage, for what is written
// there by name at the end of a run.
func stagePath(dir string, name string) string {
	return filepath.Join(workPath(dir, stageName), filepath.FromSlash(path.Clean(name)))
}

// removeBelow empties a directory but for the names to keep, if it exists.
func removeBelow(dir string, keep ...string) error {
	err := durable.FS{}.RemoveContents(dir, keep...)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
