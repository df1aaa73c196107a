package file

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"
)

// always and young choose which folders syncUp syncs.
func always(fs.FileInfo) bool { return true }

// young is true of a folder whose last change the kernel may not have written
// by itself yet. ext4 does after 5 s (commit=), XFS and btrfs after 30 s; NFS
// servers change folders synchronously. A time in the future is young.
func young(info fs.FileInfo) bool { return time.Since(info.ModTime()) < 5*time.Minute }

// syncUp makes the names in dir durable, and the name of dir itself, up to the
// root. Nothing is remembered between calls: another process may have removed
// and made a folder anew.
func syncUp(r *os.Root, dir string, which func(fs.FileInfo) bool) error {
	for ; ; dir = path.Dir(dir) {
		if err := syncDir(r, dir, which); err != nil {
			return err
		}
		if dir == "." {
			return nil
		}
	}
}

func syncDir(r *os.Root, dir string, which func(fs.FileInfo) bool) error {
	f, err := r.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !which(info) {
		return err
	}
	return ignoreNoDirSync(f.Sync())
}

// ignoreNoDirSync forgives file systems that cannot sync a folder, as
// PostgreSQL does (src/common/file_utils.c, fsync_fname), and read-only ones.
func ignoreNoDirSync(err error) error {
	for _, e := range []error{syscall.EBADF, syscall.EINVAL, syscall.EOPNOTSUPP, syscall.EROFS} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }
