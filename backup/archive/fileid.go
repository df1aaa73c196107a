package archive

import (
	"fmt"
	"io/fs"
	"os"
	"time"
)

// FileID tells a file from another of the same name: a segment's file is renamed
// before it is used again, which its times show. Values are compared with ==.
type FileID struct {
	sys      any // device and inode
	size     int64
	modified time.Time
	changed  time.Time
}

// IdentifyFile gives the identity of a regular file as it is now.
func IdentifyFile(path string) (FileID, error) {
	info, err := os.Stat(path)
	if err != nil {
		return FileID{}, err
	}
	if !info.Mode().IsRegular() {
		return FileID{}, fmt.Errorf("%s: %w", path, fs.ErrInvalid)
	}
	id := FileID{size: info.Size(), modified: info.ModTime()}
	id.sys, id.changed = inode(info)
	return id, nil
}
