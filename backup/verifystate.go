package backup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
)

// verifyState is a local file that names the packs a deep verification has
// found good: a line for what is verified, the cluster and the digest of the
// backups' ids, with the time at which it was begun, then one per pack, with its number in hexadecimal and its size. A
// pack is checked against the backups that lean on it, so what was good for one
// set of backups says little for another. A line that a crash cut off does not
// count.
type verifyState struct {
	mu   sync.Mutex
	file *os.File // nil: nothing is noted
	good map[repo.PackRef]int64
}

// stateAge is how old a state may be: what was good then may have rotted since.
const stateAge = 7 * 24 * time.Hour

const stateMagic = "pgtender verify 2 "

// stateSubject says what is verified.
func stateSubject(cluster repo.ClusterID, backups []VerifiedBackup) string {
	var ids strings.Builder
	for _, b := range backups {
		ids.WriteString(b.ID.String() + "\n")
	}
	return cluster.String() + " " + repo.DigestOf([]byte(ids.String())).String()
}

// openVerifyState goes on with a state, or begins one where there is none of
// this subject.
func openVerifyState(path, subject string) (*verifyState, error) {
	s := &verifyState{good: make(map[repo.PackRef]int64)}
	if path == "" {
		return s, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the verification's state: %w", err)
	}
	s.file = f
	if err := s.load(subject); err != nil {
		return nil, errors.Join(fmt.Errorf("read the verification's state %s: %w", path, err), f.Close())
	}
	return s, nil
}

func (s *verifyState) load(subject string) error {
	content, err := io.ReadAll(bufio.NewReader(s.file))
	if err != nil {
		return err
	}
	good, begun, end := parseVerifyState(content, subject)
	// By the clock that wrote it, and not the file's times, which are those of a
	// file server perhaps. One of the future tells that the clock was set.
	if old := time.Since(begun); good == nil || old > stateAge || old < 0 {
		if err := s.file.Truncate(0); err != nil {
			return err
		}
		_, err := s.file.WriteAt([]byte(stateHead(subject, time.Now())), 0)
		if err == nil {
			_, err = s.file.Seek(0, io.SeekEnd)
		}
		return err
	}
	s.good = good
	if err := s.file.Truncate(end); err != nil {
		return err
	}
	_, err = s.file.Seek(end, io.SeekStart)
	return err
}

func stateHead(subject string, begun time.Time) string {
	return fmt.Sprintf("%s%s %d\n", stateMagic, subject, begun.Unix())
}

// parseVerifyState gives the packs in a state of this subject, nil if it is
// none, when it was begun, and where its last whole line ends.
func parseVerifyState(content []byte, subject string) (good map[repo.PackRef]int64, begun time.Time, end int64) {
	line, _, whole := bytes.Cut(content, []byte("\n"))
	text, ours := strings.CutPrefix(string(line), stateMagic+subject+" ")
	seconds, err := strconv.ParseInt(text, 10, 64)
	if begun = time.Unix(seconds, 0); !whole || !ours || err != nil || stateHead(subject, begun) != string(line)+"\n" {
		return nil, time.Time{}, 0
	}
	good, end = make(map[repo.PackRef]int64), int64(len(line))+1
	for rest := content[end:]; ; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		p, size, ok := parseStateLine(string(line))
		if !whole || !ok {
			return good, begun, end
		}
		good[p] = size
		end += int64(len(line)) + 1
		rest = after
	}
}

func parseStateLine(line string) (p repo.PackRef, size int64, ok bool) {
	parts := strings.Split(line, " ")
	if len(parts) != 3 {
		return p, 0, false
	}
	id, err := repo.ParseBackupID(parts[0])
	n, errN := strconv.ParseUint(parts[1], 16, 32)
	size, errS := strconv.ParseInt(parts[2], 10, 64)
	p = repo.PackRef{Backup: id, Number: uint32(n)}
	return p, size, errors.Join(err, errN, errS) == nil && stateLine(p, size) == line
}

func stateLine(p repo.PackRef, size int64) string {
	return fmt.Sprintf("%s %x %d", p.Backup, p.Number, size)
}

func (s *verifyState) has(p repo.PackRef, size int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.good[p]
	return ok && known == size
}

// add notes a pack. The file is not synced: what a power cut loses is read
// again.
func (s *verifyState) add(p repo.Pack) error {
	if s.file == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.file.WriteString(stateLine(p.PackRef, p.Size) + "\n"); err != nil {
		return fmt.Errorf("note a verified pack: %w", err)
	}
	return nil
}

func (s *verifyState) sync() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

func (s *verifyState) remove() error {
	if s.file == nil {
		return nil
	}
	if err := os.Remove(s.file.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the verification's state: %w", err)
	}
	return nil
}
