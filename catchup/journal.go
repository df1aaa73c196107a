package catchup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// The journal lists the files that are whole and synced: a line that names the
// run, then one line per file, its number in the backup. Each line ends with a
// checksum, so that a line that was cut off is noticed. What is not in it is
// fetched again.

func journalLine(text string) string {
	return fmt.Sprintf("%s %08x\n", text, crc32.ChecksumIEEE([]byte(text)))
}

// parseJournal gives the files that a journal of the run lists; none if it is
// another run's. It ends at the first line that is not whole, whose offset it
// gives too.
func parseJournal(r io.Reader, id string) (map[uint32]bool, int64, error) {
	in := bufio.NewReader(r)
	files := map[uint32]bool{}
	for off, first := int64(0), true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil && err != io.EOF && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, 0, err
		}
		text, _, _ := bytes.Cut(line, []byte(" "))
		if err != nil || journalLine(string(text)) != string(line) {
			return files, off, nil
		}
		if first {
			if string(text) != id {
				return files, 0, nil
			}
		} else {
			n, err := strconv.ParseUint(string(text), 10, 32)
			if err != nil {
				return files, off, nil
			}
			files[uint32(n)] = true
		}
		off += int64(len(line))
	}
}

// item is a file that has all its content.
type item struct {
	number uint32
	path   string
	size   int64
	kept   bool // it was right already
}

// journal syncs files and notes them, in batches. Safe for concurrent use
// between start and finish.
type journal struct {
	tree  *tree
	file  *os.File
	done  map[uint32]bool // by an earlier run
	items chan item
	group *errgroup.Group
	ctx   context.Context // of the group; ends with the first error
	once  sync.Once
	noted int64 // files that were written, by this process; to be read after finish
}

const (
	syncers    = 32 // files synced at a time: the file system commits them together
	batchFiles = 1024
	batchBytes = 256 << 20
	batchAge   = 50 * time.Millisecond
)

// openJournal opens the run's journal, and reads it if an earlier process of
// the same run wrote it. The rest of it, from a line cut off on, is removed.
func openJournal(dir, id string, t *tree) (*journal, error) {
	name := workPath(dir, journalName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &journal{tree: t, file: f, items: make(chan item, 4096)}
	if err := j.resume(id); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", name, err), f.Close())
	}
	return j, nil
}

func (j *journal) resume(id string) error {
	done, end, err := parseJournal(j.file, id)
	if err != nil {
		return err
	}
	j.done = done
	if err := j.file.Truncate(end); err != nil {
		return err
	}
	if _, err := j.file.Seek(end, io.SeekStart); err != nil {
		return err
	}
	if end > 0 {
		return nil
	}
	_, err = j.file.WriteString(journalLine(id))
	return err
}

// start begins to work in the background; the context that it gives ends when
// that fails.
func (j *journal) start(ctx context.Context) context.Context {
	j.group, j.ctx = errgroup.WithContext(ctx)
	j.group.Go(j.work)
	return j.ctx
}

// add hands over a file that has all its content.
func (j *journal) add(i item) error {
	select {
	case j.items <- i:
		return nil
	case <-j.ctx.Done():
		return context.Cause(j.ctx)
	}
}

// finish waits until all files that were handed over are synced and noted.
func (j *journal) finish() error {
	j.once.Do(func() { close(j.items) })
	return j.group.Wait()
}

func (j *journal) close() error { return j.file.Close() }

func (j *journal) work() error {
	for {
		batch, more := j.batch()
		if err := j.note(batch); err != nil {
			return err
		}
		if !more {
			return nil
		}
		if j.ctx.Err() != nil {
			return context.Cause(j.ctx)
		}
	}
}

// batch waits until it is worth while to sync, or all is there.
func (j *journal) batch() (batch []item, more bool) {
	bytes := int64(0)
	age := time.NewTimer(batchAge)
	defer age.Stop()
	for len(batch) < batchFiles && bytes < batchBytes {
		select {
		case i, ok := <-j.items:
			if !ok {
				return batch, false
			}
			batch, bytes = append(batch, i), bytes+i.size
		case <-age.C:
			return batch, true
		case <-j.ctx.Done():
			return batch, true
		}
	}
	return batch, true
}

// note syncs the files of a batch, and then the journal that names them.
func (j *journal) note(batch []item) error {
	if len(batch) == 0 {
		return nil
	}
	g := errgroup.Group{}
	g.SetLimit(syncers)
	var lines strings.Builder
	for _, i := range batch {
		g.Go(func() error { return j.sync(i.path) })
		lines.WriteString(journalLine(strconv.FormatUint(uint64(i.number), 10)))
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if _, err := j.file.WriteString(lines.String()); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	for _, i := range batch {
		if !i.kept {
			j.noted++
		}
	}
	return nil
}

func (j *journal) sync(name string) error {
	f, err := j.tree.open(name, os.O_RDONLY)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	return nil
}
