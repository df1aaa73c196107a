package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// seen is what the last good listing showed: a run of archived segments. It is
// kept in a file, since each fetch is a process of its own. It is a hint for
// patience alone: a file that is lost or unreadable costs nothing else.
type seen struct {
	incarnation repo.Incarnation
	first, last pg.SegmentNumber
}

func (s seen) shows(i repo.Incarnation, n pg.SegmentNumber) bool {
	return s.incarnation == i && s.first <= n && n <= s.last
}

// encode gives the file's content: one line of incarnation, first and last
// segment number.
func (s seen) encode() []byte {
	return fmt.Appendf(nil, "%s %d %d\n", s.incarnation, s.first, s.last)
}

// parseSeen is the inverse of encode.
func parseSeen(b []byte) (seen, error) {
	bad := func() (seen, error) { return seen{}, fmt.Errorf("parse last listing: %q is none", b[:min(len(b), 80)]) }
	line, ok := strings.CutSuffix(string(b), "\n")
	fields := strings.Split(line, " ")
	if !ok || len(fields) != 3 {
		return bad()
	}
	i, err := repo.ParseIncarnation(fields[0])
	first, err1 := strconv.ParseUint(fields[1], 10, 64)
	last, err2 := strconv.ParseUint(fields[2], 10, 64)
	s := seen{i, pg.SegmentNumber(first), pg.SegmentNumber(last)}
	if errors.Join(err, err1, err2) != nil || first > last || string(s.encode()) != string(b) {
		return bad()
	}
	return s, nil
}

// readSeen gives the zero value where there is nothing to be read.
func readSeen(path string) (seen, error) {
	if path == "" {
		return seen{}, nil
	}
	b, err := small(path)
	if errors.Is(err, fs.ErrNotExist) {
		return seen{}, nil
	}
	if err != nil {
		return seen{}, err
	}
	return parseSeen(b)
}

// write replaces the file.
func (s seen) write(path string) error { return ReplaceHint(path, s.encode()) }

// ReplaceHint replaces a file that only makes things faster. What a crash of the
// machine makes of it does not matter, so nothing is synced.
func ReplaceHint(path string, content []byte) error {
	f, err := createTemp(path)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
