package file

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// What root makes in somebody else's directory is given to the directory's owner
// and group: the server's user could otherwise neither read root's backup nor
// store WAL in a folder that root was the first to need. A root that may not do
// so (an NFS server that squashes it) leaves its files as they come.

func giveFile(r *os.Root, f *os.File) error {
	return give(r, f.Chown)
}

func giveFolder(r *os.Root, dir string) error {
	return give(r, func(uid, gid int) error { return r.Lchown(dir, uid, gid) })
}

func give(r *os.Root, chown func(uid, gid int) error) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := r.Stat(".")
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 {
		return nil
	}
	if err := chown(int(st.Uid), int(st.Gid)); !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}
