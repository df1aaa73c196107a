package file

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
)

// always and young choose which folders syncUp syncs.
func always(fs.FileInfo) bool { return true }

// young is true of a folder whose last change the kernel may not have written
// by itself yet. ext4 does after 5 s (commit=), XFS and btrfs after 30 s; NFS
// servers change folders synchronously. A time in the future is young.
func young(info fs.FileInfo) bool { return time.Since(info.ModTime()) < 5*time.Minute }

// syncUp makes the names in dir durable, and the name of dir itself, up to the
// root.
func (s *Store) syncUp(r *os.Root, dir string, which func(fs.FileInfo) bool) error {
	for ; ; dir = path.Dir(dir) {
		if err := s.syncDir(r, dir, which); err != nil {
			return err
		}
		if dir == "." {
			return nil
		}
	}
}

// Persist syncs the object's folder even if the kernel should have written it long
// ago: a file system that has failed meanwhile shows for ever what is not on disk,
// and a sync is what it answers with an error.
func (s *Store) Persist(ctx context.Context, key string) error {
	if err := storage.CheckCall(ctx, "sync", key); err != nil {
		return err
	}
	r, err := s.root("sync", key)
	if err != nil {
		return err
	}
	defer r.Close()
	dir := path.Dir(key)
	if err = s.syncDir(r, dir, always); err == nil {
		err = s.syncUp(r, path.Dir(dir), young)
	}
	if err != nil {
		return failed("sync", key, err)
	}
	return nil
}

func (s *Store) syncDir(r *os.Root, dir string, which func(fs.FileInfo) bool) error {
	f, err := r.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.syncFolder(f, which)
}

// syncFolder syncs an open folder, unless that was done since it last changed.
// Each name that comes or goes sets the folder's change time, and one that was
// made anew has another; those of the last second are not gone by, since the
// kernel's clock ticks more slowly than names can come.
func (s *Store) syncFolder(f *os.File, which func(fs.FileInfo) bool) error {
	info, err := f.Stat()
	if err != nil || !which(info) || s.synced.has(info) {
		return err
	}
	settled := time.Since(changed(info)) > time.Second
	if err := ignoreNoDirSync(s.fsync(f)); err != nil {
		return err
	}
	if settled {
		s.synced.add(info)
	}
	return nil
}

// syncYoung syncs a young folder, so that no name that was read there goes with a
// power cut.
func (s *Store) syncYoung(f *os.File) error { return s.syncFolder(f, young) }

// named remembers young files whose names were synced, for a pack is read in many
// pieces, and folders. A name is of the same folders as long as the file's change
// time stays, for link, rename and unlink set it. Safe for concurrent use.
type named struct {
	mu    sync.Mutex
	files map[identity]bool // guarded by mu
}

type identity struct {
	device, inode uint64
	changed       time.Time
}

// namedFiles is how many files are remembered at most.
const namedFiles = 4096

func identityOf(info fs.FileInfo) (identity, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, false
	}
	return identity{uint64(st.Dev), uint64(st.Ino), changeTime(st)}, true
}

func (n *named) has(info fs.FileInfo) bool {
	id, ok := identityOf(info)
	n.mu.Lock()
	defer n.mu.Unlock()
	return ok && n.files[id]
}

func (n *named) add(info fs.FileInfo) {
	id, ok := identityOf(info)
	if !ok {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.files == nil || len(n.files) >= namedFiles {
		n.files = make(map[identity]bool)
	}
	n.files[id] = true
}

// ignoreNoDirSync forgives file systems that cannot sync a folder, as
// PostgreSQL does (src/common/file_utils.c, fsync_fname). EROFS is none of their
// answers: ext4 and btrfs give it once an error has made them read-only, and then
// no name that came since the last commit is on disk, although all are shown
// (ext4_sync_file, fs/ext4/fsync.c). To sync on what was mounted read-only succeeds.
func ignoreNoDirSync(err error) error {
	for _, e := range []error{syscall.EBADF, syscall.EINVAL, syscall.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }
