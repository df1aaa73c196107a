package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// Spool is the folder beside pg_wal's segments in which a [Prefetch] lays down
// what recovery will ask for next. It is only ever a shortcut: what is not there,
// not fresh or not intact is fetched as if there were no spool.
//
//	SEGMENT~DIGEST   a whole segment, named after the digest of its bytes
//	fresh            to whom the segments were last proved to be the ones to serve,
//	                 and when
//	asked            the segment that was asked for last
//	lock             held by the one Prefetch that works here
//	tmp-*            a segment that it is laying down
//	.pgtender-agent  where it can be asked, unless it is an agent's: see
//	                 [Prefetch.HandOver]
type Spool struct{ dir string }

// SpoolIn gives the spool of a pg_wal. No backup takes it along.
func SpoolIn(walDir string) Spool { return Spool{filepath.Join(walDir, ".pgtender-spool")} }

// freshFor is how long what lies in a spool may be handed over after it was
// proved to be of the reader's history: less than Patroni takes to tell of a
// new leader.
const freshFor = 5 * time.Second

// provedOfLate reports whether it was proved so short a time ago. A clock that was
// put back proves nothing.
func provedOfLate(at time.Time) bool {
	age := time.Since(at)
	return age >= 0 && age <= freshFor
}

func (s Spool) path(name string) string { return filepath.Join(s.dir, name) }

// Ask notes which segment recovery asks for.
func (s Spool) Ask(name string) error {
	if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return ReplaceHint(s.path("asked"), []byte(name))
}

// asked gives the segment that was asked for last, and when.
func (s Spool) asked() (name string, at time.Time) {
	info, err := os.Stat(s.path("asked"))
	if err != nil {
		return "", time.Time{}
	}
	content, err := small(s.path("asked"))
	if err != nil {
		return "", time.Time{}
	}
	return string(content), info.ModTime()
}

// Take moves a segment to dest if it lies in the spool, is fresh for that reader
// and intact: every byte of it is read. False: fetch it.
func (s Spool) Take(name, dest, reader string) bool {
	file, ok := s.find(name)
	if !ok || !s.isFresh(reader) {
		return false
	}
	_, digest, _ := strings.Cut(file, "~")
	want, err := repo.ParseDigest(digest)
	if err == nil {
		err = intact(s.path(file), name, want)
	}
	if err != nil {
		os.Remove(s.path(file)) // it is of no use to anybody
		return false
	}
	return os.Rename(s.path(file), dest) == nil
}

// find gives the name of the file that holds a segment.
func (s Spool) find(name string) (string, bool) {
	for _, f := range s.files() {
		if strings.HasPrefix(f, name+"~") {
			return f, true
		}
	}
	return "", false
}

// files names the segments' files.
func (s Spool) files() []string {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if segment, digest, ok := strings.Cut(e.Name(), "~"); ok && pg.IsSegmentName(segment) {
			if _, err := repo.ParseDigest(digest); err == nil {
				out = append(out, e.Name())
			}
		}
	}
	return out
}

// prove notes that what lies in the spool is what to serve to a reader, as it was
// found at that time.
func (s Spool) prove(reader string, at time.Time) error {
	return ReplaceHint(s.path("fresh"), proof(reader, at))
}

// proof is what prove notes. The file's own time would not do: pg_rewind copies the
// spool that a killed process left in its source's pg_wal, and a copy is new.
func proof(reader string, at time.Time) []byte {
	return fmt.Appendf(nil, "%d %s", at.UnixNano(), reader)
}

func (s Spool) isFresh(reader string) bool {
	content, err := small(s.path("fresh"))
	if err != nil {
		return false
	}
	when, _, _ := strings.Cut(string(content), " ")
	nanos, err := strconv.ParseInt(when, 10, 64)
	if err != nil {
		return false
	}
	at := time.Unix(0, nanos)
	return provedOfLate(at) && bytes.Equal(content, proof(reader, at))
}

// intact reports an error unless a file holds the segment of that name, with that
// digest. It reads every byte.
func intact(path, name string, want repo.Digest) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // opened for reading
	head, err := wal.ReadSegmentHeader(f)
	if err != nil {
		return err
	}
	if !head.Plausible() {
		return fmt.Errorf("%s does not begin like a segment", path)
	}
	size := head.SegmentSize
	seg, err := pg.ParseSegment(name, size)
	if err != nil {
		return err
	}
	if head.Address != size.Start(seg.Number) {
		return fmt.Errorf("%s begins at %s", path, head.Address)
	}
	got, n, err := digestOf(io.NewSectionReader(f, 0, 1<<40))
	if err != nil || n != int64(size) || got != want {
		return errors.Join(err, fmt.Errorf("%s: %d bytes with another digest", path, n))
	}
	return nil
}

// readBuffers are what files are read through, used again: a recovery reads one for
// each segment, and with memory anew for each the collector would be at work all the time.
var readBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// digestOf reads r to its end, and gives the digest of its bytes and how many they are.
func digestOf(r io.Reader) (repo.Digest, int64, error) {
	buf := readBuffers.Get().(*[256 << 10]byte)
	defer readBuffers.Put(buf)
	digest := repo.NewDigester()
	n, err := io.CopyBuffer(digest, r, buf[:])
	return digest.Digest(), n, err
}

// begin removes what an earlier Prefetch left, finished or not: only the one that
// has the lock makes such files.
func (s Spool) begin() {
	for _, f := range s.files() {
		os.Remove(s.path(f))
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), layPrefix) {
			os.Remove(s.path(e.Name()))
		}
	}
	sweepTemps(s.dir) // of commands that asked
}

// layPrefix begins the names of segments that are being laid down.
const layPrefix = "tmp-"

// clear removes everything but the lock.
func (s Spool) clear() {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Name() != "lock" {
			os.Remove(s.path(e.Name()))
		}
	}
}

// strayAge is how old what a killed process left in pg_wal must be before it is
// removed.
const strayAge = 10 * time.Minute

// Sweep removes what killed processes left in a pg_wal: a spool that nobody
// works at, and unfinished files of fetches. It is a matter of space alone, so
// that what cannot be removed stays.
func Sweep(walDir string) {
	s := SpoolIn(walDir)
	if stray(s.dir) {
		if release, ok := s.lock(); ok {
			s.clear()
			os.Remove(s.path("lock"))
			os.Remove(s.dir)
			release()
		}
	}
	sweepTemps(walDir)
}

// Tidy is [Sweep] at once and every few minutes until ctx ends, for a daemon: what
// it left itself when it was killed is too young to be removed when it starts.
func Tidy(ctx context.Context, walDir string) {
	ticker := time.NewTicker(strayAge)
	defer ticker.Stop()
	for {
		Sweep(walDir)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// stray reports whether nobody can be at work at a file any more.
func stray(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && time.Since(info.ModTime()) > strayAge
}

// sweepTemps removes what killed processes left of createTemp's in a directory.
func sweepTemps(dir string) {
	temps, err := filepath.Glob(filepath.Join(escapeGlob(dir), ".*"+tempSuffix))
	if err != nil {
		return
	}
	for _, path := range temps {
		if stray(path) {
			os.Remove(path)
		}
	}
}
