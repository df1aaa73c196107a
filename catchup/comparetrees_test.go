package catchup_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/pgtender/pgtender/internal/pg"
)

// differences is what compareTrees finds.
type differences struct {
	wrong                       []string
	equal, hints, images, later int // pages of main forks

	comparison
}

func (d differences) String() string {
	return fmt.Sprintf("%d pages are equal, %d differ in hints, %d in the position of a hint's image, %d are yet to be replayed", d.equal, d.hints, d.images, d.later)
}

// comparison is what two directories are compared by.
type comparison struct {
	*logged
	// after says that a server has replayed both to the same position: what is
	// compared then are main forks alone, and no page may change any more.
	after bool
}

const blockSize = 8192

// mainFork matches the file of a relation's main fork.
var mainFork = regexp.MustCompile(`(^|/)(base/\d+|global|PG_\d+_\d+/\d+)/\d+(\.\d+)?$`)

// own reports whether a path at the top of a data directory is the operator's, or
// differs between any two.
func own(path string) bool {
	top, _, below := strings.Cut(path, "/")
	switch {
	case top == ".pgtender" || top == "postgresql.auto.conf" || top == "tablespace_map":
		return true
	case below:
		return false
	}
	return strings.HasSuffix(top, ".conf") || strings.HasSuffix(top, ".log") || strings.HasSuffix(top, ".old") || top == "log" || top == "logfile"
}

// compareTrees compares a converged data directory with a restored one. Links are
// followed: tablespaces lie elsewhere in each.
func compareTrees(ctx context.Context, got, want string, by comparison) (differences, error) {
	d := differences{comparison: by}
	a, err := files(got)
	if err != nil {
		return d, err
	}
	b, err := files(want)
	if err != nil {
		return d, err
	}
	for name := range a {
		if _, ok := b[name]; !ok && d.counts(name) {
			d.wrong = append(d.wrong, name+" is there, and not in a restore")
		}
	}
	for name, path := range b {
		if !d.counts(name) {
			continue
		}
		mine, ok := a[name]
		if !ok {
			d.wrong = append(d.wrong, name+" is missing")
			continue
		}
		if err := d.file(ctx, name, mine, path); err != nil {
			return d, err
		}
	}
	return d, nil
}

func (d *differences) counts(name string) bool {
	if d.after {
		return mainFork.MatchString(name)
	}
	return !own(name)
}

func (d *differences) file(ctx context.Context, name, mine, theirs string) error {
	x, err := os.ReadFile(mine)
	if err != nil {
		return err
	}
	y, err := os.ReadFile(theirs)
	if err != nil {
		return err
	}
	switch {
	case len(x) != len(y):
		d.wrong = append(d.wrong, fmt.Sprintf("%s has %d bytes, not %d", name, len(x), len(y)))
	case !mainFork.MatchString(name):
		if !bytes.Equal(x, y) {
			d.wrong = append(d.wrong, name+" differs")
		}
	default:
		for at := 0; at < len(x); at += blockSize {
			if err := d.page(ctx, name, uint32(at/blockSize), x[at:at+blockSize], y[at:at+blockSize]); err != nil {
				return err
			}
		}
	}
	return nil
}

// page compares two pages, and says precisely why they may differ.
func (d *differences) page(ctx context.Context, name string, n uint32, p, q []byte) error {
	a, b := pg.Page(p).LSN(), pg.Page(q).LSN()
	switch {
	case bytes.Equal(p, q):
		d.equal++
		return nil
	case a == b && (onlyHints(p, q) || sameSequence(p, q)):
		d.hints++
		return nil
	case !d.after && d.changes(name, n):
		d.later++ // and compared after that
		return nil
	case a != b && onlyHints(p, q):
		image, err := d.hintImage(ctx, name, n, max(a, b))
		if err != nil {
			return fmt.Errorf("look for the record that ends at %s: %w", max(a, b), err)
		}
		if image {
			d.images++
			return nil
		}
	}
	d.wrong = append(d.wrong, fmt.Sprintf("page %d of %s differs: %s, not %s", n, name, a, b)+explain(p, q))
	return nil
}

// onlyHints reports whether two pages differ, beside their position, in nothing but hints: checksum,
// flags and prune xid of the header, single bits of what follows (infomask bits of
// tuples, dead line pointers), and the free space in the middle, which a full page
// image leaves out.
func onlyHints(p, q []byte) bool {
	if deletedGIN(p) && deletedGIN(q) {
		return true // replay does not bring back what was in it (ginRedoDeleteListPages)
	}
	if !bytes.Equal(p[12:20], q[12:20]) {
		return false
	}
	if binary.LittleEndian.Uint32(p[24:]) == spgistMeta {
		// Its cache of pages with room is written without WAL (SpGistUpdateMetaPage).
		return bytes.Equal(p[92:], q[92:])
	}
	lower, upper := int(pg.Page(p).Lower()), int(pg.Page(p).Upper())
	for i := 24; i < len(p); i++ {
		if lower <= i && i < upper {
			continue
		}
		if n := bits.OnesCount8(p[i] ^ q[i]); n > 2 {
			return false
		}
	}
	return true
}

// sameSequence reports whether two pages are of a sequence of which the same values
// are logged. What nextval takes of those is counted on the page without WAL, and
// replay takes all of them (nextval_internal, sequence.c).
func sameSequence(p, q []byte) bool {
	const magic, lastValue, logCount, isCalled = 0x1717, 8160, 8168, 8176 // SEQ_MAGIC, FormData_pg_sequence_data
	le := binary.LittleEndian
	for _, page := range [][]byte{p, q} {
		if pg.Page(page).Special() != blockSize-8 || le.Uint32(page[blockSize-8:]) != magic {
			return false
		}
	}
	logged := func(page []byte) uint64 { return le.Uint64(page[lastValue:]) + le.Uint64(page[logCount:]) }
	return logged(p) == logged(q) && bytes.Equal(p[12:lastValue], q[12:lastValue]) && bytes.Equal(p[isCalled:], q[isCalled:])
}

const spgistMeta = 0xBA0BABEE // SPGIST_MAGIC_NUMBER, access/spgist_private.h

// deletedGIN reports whether a page has GIN's special space with the flag
// GIN_DELETED (access/ginblock.h).
func deletedGIN(p []byte) bool {
	return pg.Page(p).Special() == blockSize-8 && binary.LittleEndian.Uint16(p[blockSize-2:])&(1<<2) != 0
}

// files lists the files of a data directory by their names in it.
func files(dir string) (map[string]string, error) {
	out := map[string]string{}
	var walk func(at, name string) error
	walk = func(at, name string) error {
		entries, err := os.ReadDir(at)
		if err != nil {
			return err
		}
		for _, e := range entries {
			path, in := filepath.Join(at, e.Name()), filepath.Join(name, e.Name())
			info, err := os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s leads nowhere", path)
			}
			if err != nil {
				return err
			}
			if info.IsDir() {
				err = walk(path, in)
			} else {
				out[in] = path
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return out, walk(dir, "")
}

// explain shows where two pages differ.
func explain(p, q []byte) string {
	var b strings.Builder
	for i := range p {
		if p[i] != q[i] && b.Len() < 200 {
			fmt.Fprintf(&b, " %d:%02x/%02x", i, p[i], q[i])
		}
	}
	return b.String()
}
