package storage

import (
	"fmt"
	"strings"
)

// maxKey keeps keys below what every store takes (S3: 1024 bytes), with room
// for the prefix a repository lives under.
const maxKey = 512

// maxPart is the longest file name on Linux file systems (NAME_MAX).
const maxPart = 255

func validKey(key string) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("%w %q: want 1 to %d bytes", ErrInvalidKey, key, maxKey)
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("%w %q: empty, \".\" or \"..\" part", ErrInvalidKey, key)
		}
		if len(part) > maxPart {
			return fmt.Errorf("%w %q: part longer than %d bytes", ErrInvalidKey, key, maxPart)
		}
		for i := range len(part) {
			c := part[i]
			switch {
			case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			case strings.IndexByte("._-~=+", c) >= 0:
			default:
				return fmt.Errorf("%w %q: character %q", ErrInvalidKey, key, c)
			}
		}
	}
	return nil
}
