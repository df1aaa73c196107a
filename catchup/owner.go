package catchup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Owner is a user and a group, by number.
type Owner struct{ UID, GID int }

// ownerOf finds out whose the files of a data directory are to be: the
// directory's own, if it is not root's, else that of the nearest directory above
// it that is not.
func ownerOf(dir string) (Owner, error) {
	for {
		info, err := os.Stat(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Owner{}, err
		}
		if err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
				return Owner{int(st.Uid), int(st.Gid)}, nil
			}
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return Owner{}, nil
		}
		dir = parent
	}
}

// give gives all files to the server's user. A server refuses to start in a
// directory of another user's, and never runs as root, so that what root has
// restored is of use to nobody until then. It does nothing for any other user,
// who can give away nothing.
func (r *runner) give(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	owner := r.opts.Owner
	if owner == (Owner{}) {
		var err error
		if owner, err = ownerOf(dir); err != nil {
			return fmt.Errorf("find out whose the files are to be: %w", err)
		}
	}
	if owner.UID == 0 {
		return nil
	}
	roots := []string{dir, SavedWAL(dir)}
	for _, p := range r.plan.Places {
		roots = append(roots, p.Path)
		if p.OID != 0 {
			if err := giveOne(p.Location, owner); err != nil {
				return err
			}
		}
	}
	for _, root := range roots {
		err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			return giveOne(name, owner)
		})
		if err != nil {
			return fmt.Errorf("give the files to user %d: %w", owner.UID, err)
		}
	}
	return nil
}

// giveOne changes the owner of a file, or of a link itself, unless it is right.
func giveOne(name string, owner Owner) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == owner.UID && int(st.Gid) == owner.GID {
		return nil
	}
	return os.Lchown(name, owner.UID, owner.GID)
}
