package repo

import (
	"fmt"
	"io"
	"os"
	"sort"

	"github.com/pgtender/pgtender/backup/storage"
)

// spool collects an object whose size is not known beforehand: in memory up
// to a limit, then in an unlinked temporary file. Not safe for concurrent use
// while it is written.
type spool struct {
	dir   string
	limit int
	mem   []byte
	file  *os.File
	size  int64
}

// room gives memory for n bytes in which the next ones may be made, so that Write
// need not copy them; nil: there is none.
func (s *spool) room(n int) []byte {
	end := len(s.mem) + n
	if s.file != nil || end > cap(s.mem) {
		return nil
	}
	return s.mem[len(s.mem):end:end]
}

// inRoom reports whether b is where it would be copied to.
func (s *spool) inRoom(b []byte) bool {
	r := s.room(len(b))
	return len(b) > 0 && r != nil && &r[0] == &b[0]
}

func (s *spool) Write(b []byte) (int, error) {
	if s.file == nil && len(s.mem)+len(b) > s.limit {
		if err := s.toFile(); err != nil {
			return 0, err
		}
	}
	if s.file == nil {
		if s.inRoom(b) {
			s.mem = s.mem[:len(s.mem)+len(b)]
		} else {
			s.mem = append(s.mem, b...)
		}
		s.size += int64(len(b))
		return len(b), nil
	}
	n, err := s.file.Write(b)
	s.size += int64(n)
	return n, storage.NotAbsence(err)
}

func (s *spool) toFile() error {
	f, err := os.CreateTemp(s.dir, "pgtender-spool-*")
	if err != nil {
		return fmt.Errorf("create spool file: %w", storage.NotAbsence(err))
	}
	s.file = f
	// Unlinked at once: whatever happens to the process, nothing stays.
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("unlink spool file: %w", storage.NotAbsence(err))
	}
	if _, err := f.Write(s.mem); err != nil {
		return fmt.Errorf("write spool file: %w", storage.NotAbsence(err))
	}
	s.mem = nil
	return nil
}

func (s *spool) ReadAt(p []byte, off int64) (int, error) {
	if s.file != nil {
		return s.file.ReadAt(p, off)
	}
	if off >= int64(len(s.mem)) {
		return 0, io.EOF
	}
	n := copy(p, s.mem[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close gives the memory or the file back.
func (s *spool) Close() error {
	s.mem = nil
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// section is a piece of a joined object.
type section struct {
	io.ReaderAt
	size int64
}

// joined is several sections as one io.ReaderAt.
type joined struct {
	parts []section
	ends  []int64
}

func join(parts ...section) *joined {
	j := &joined{}
	end := int64(0)
	for _, p := range parts {
		if p.size > 0 {
			end += p.size
			j.parts, j.ends = append(j.parts, p), append(j.ends, end)
		}
	}
	return j
}

func (j *joined) size() int64 {
	if len(j.ends) == 0 {
		return 0
	}
	return j.ends[len(j.ends)-1]
}

func (j *joined) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := off + int64(n)
		i := sort.Search(len(j.ends), func(i int) bool { return j.ends[i] > at })
		if i == len(j.ends) {
			return n, io.EOF
		}
		want := min(int64(len(p)-n), j.ends[i]-at)
		m, err := j.parts[i].ReadAt(p[n:n+int(want)], at-(j.ends[i]-j.parts[i].size))
		n += m
		if int64(m) < want {
			if err == io.EOF || err == nil {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	return n, nil
}
