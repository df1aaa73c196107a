package repo

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
	"unicode/utf8"
)

// Entry is one file or directory of a backup.
type Entry struct {
	File     uint32      // number of a file, unique within the backup; 0 for a directory
	Path     string      // relative to the data directory, slash-separated
	Dir      bool        // a directory
	Mode     fs.FileMode // permission bits as Unix counts them, 0 to 07777
	Modified time.Time   // whole seconds
	Size     int64       // bytes

	// Where the content is: in a bundle, or where a page map says. A
	// directory and an empty file have neither.
	Bundle *BundleRef
	Map    *MapRef
	// Digest of the whole content: always set with Bundle; with Map for
	// files that are not main-fork relation segments.
	Digest Digest
}

// BundleRef is one member of a bundle.
type BundleRef struct {
	Generation int // index into the manifest's generations; 0 is the backup itself
	Place
	Member uint32 // counted from 0
}

// MapRef is the frame that holds a page map, and what the map leads to.
type MapRef struct {
	Generation int // index into the manifest's generations; 0 is the backup itself
	Place
	File uint32 // the file's number in that generation
	// Packs are those that hold a live page of the file, or a frame table that
	// leads to one: all that must stay for the file, but for the map itself. They
	// may be shared with other entries.
	Packs []PackRef

	held []uint32 // the same as the line has it: places in the manifest's list of packs
}

const maxPath = 4096

// append encodes the entry as one line with its line end.
func (e *Entry) append(b []byte) []byte {
	b = append(b, '{')
	if !e.Dir {
		b = append(b, `"n":`...)
		b = append(appendInt(b, e.File), ',')
	}
	if utf8.ValidString(e.Path) {
		b = appendString(append(b, `"p":`...), e.Path)
	} else {
		b = append(b, `"p64":"`...)
		b = append(base64.StdEncoding.AppendEncode(b, []byte(e.Path)), '"')
	}
	if e.Dir {
		b = append(b, `,"d":true`...)
	}
	b = appendInt(append(b, `,"m":`...), uint32(e.Mode))
	b = appendInt(append(b, `,"t":`...), e.Modified.Unix())
	if !e.Dir {
		b = appendInt(append(b, `,"s":`...), e.Size)
	}
	if r := e.Bundle; r != nil {
		b = appendRef(append(b, `,"b":`...), r.Generation, r.Place, r.Member)
	}
	if r := e.Map; r != nil {
		b = appendRef(append(b, `,"f":`...), r.Generation, r.Place, r.File)
		b = append(b, `,"l":`...)
		for i, at := range r.held {
			sep := byte(',')
			if i == 0 {
				sep = '['
			}
			b = appendInt(append(b, sep), at)
		}
		b = append(b, ']')
	}
	if !e.Digest.IsZero() {
		b = append(b, `,"h":"`...)
		b = append(b, e.Digest.String()...)
		b = append(b, '"')
	}
	return append(b, "}\n"...)
}

func appendRef(b []byte, g int, p Place, last uint32) []byte {
	b = appendInt(append(b, '['), g)
	b = appendInt(append(b, ','), p.Pack)
	b = appendInt(append(b, ','), p.Offset)
	b = appendInt(append(b, ','), p.Length)
	b = appendInt(append(b, ','), last)
	return append(b, ']')
}

// Validate reports an entry that no manifest may hold. Above all its path
// stays below the directory it is restored to.
func (e *Entry) Validate() error {
	if err := validPath(e.Path); err != nil {
		return err
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("entry %q: %s", e.Path, fmt.Sprintf(format, args...))
	}
	switch {
	case e.Mode > 0o7777:
		return bad("mode %o", uint32(e.Mode))
	case e.Modified.Unix() > 1<<48 || e.Modified.Unix() < -1<<48:
		return bad("modified at second %d", e.Modified.Unix())
	case e.Dir && (e.File != 0 || e.Size != 0 || e.Bundle != nil || e.Map != nil || !e.Digest.IsZero()):
		return bad("a directory has no content")
	case e.Dir:
		return nil
	case e.File < 1 || e.File > maxFile:
		return bad("file number %d", e.File)
	case e.Size < 0 || e.Size > 1<<53:
		return bad("size %d", e.Size)
	case (e.Size > 0) != ((e.Bundle != nil) != (e.Map != nil)) || e.Bundle != nil && e.Map != nil:
		return bad("%d bytes, but in a bundle: %t, with a page map: %t", e.Size, e.Bundle != nil, e.Map != nil)
	case e.Size == 0 && !e.Digest.IsZero(), e.Bundle != nil && e.Digest.IsZero():
		return bad("digest %s with %d bytes", e.Digest, e.Size)
	}
	if r := e.Bundle; r != nil {
		if r.Generation < 0 || r.Member >= maxMembers || e.Size > MaxFrame {
			return bad("%d bytes as member %d of a bundle of generation %d", e.Size, r.Member, r.Generation)
		}
		if err := r.check(frameHead + 8*maxMembers + MaxFrame); err != nil {
			return bad("%v", err)
		}
	}
	if r := e.Map; r != nil {
		if r.Generation < 0 || r.File < 1 || r.File > maxFile || r.Generation == 0 && r.File != e.File {
			return bad("page map of file %d of generation %d", r.File, r.Generation)
		}
		if err := r.check(frameHead + maxMapFrame); err != nil {
			return bad("%v", err)
		}
	}
	return nil
}

func validPath(p string) error {
	if p == "" || len(p) > maxPath || strings.ContainsRune(p, 0) || p[0] == '/' || path.Clean(p) != p || p == "." || p == ".." || strings.HasPrefix(p, "../") {
		return fmt.Errorf("path %q: want a clean relative path of 1 to %d bytes", p, maxPath)
	}
	return nil
}
