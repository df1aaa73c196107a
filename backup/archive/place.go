package archive

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgtender/pgtender/backup/storage"
)

// place writes a file beside dest and gives it its name once write has
// returned nil. It is not synced: PostgreSQL syncs what it keeps of a restored
// segment (KeepFileRestoredFromArchive, xlogarchive.c), and fetches the rest
// again after a crash.
func place(dest string, write func(io.Writer) error) error {
	f, err := createTemp(dest)
	if err != nil {
		return &localError{storage.NotAbsence(err)}
	}
	w := &localWriter{f: f}
	err = write(w)
	if err == nil {
		err = w.check(f.Chmod(0o600)) // as PostgreSQL's own, whatever the umask
	}
	if closeErr := f.Close(); err == nil {
		err = w.check(closeErr)
	}
	if err == nil {
		err = w.check(os.Rename(f.Name(), dest))
	}
	if err != nil {
		return errors.Join(err, w.check(os.Remove(f.Name())))
	}
	return nil
}

// createTemp makes a file beside path for what is to get that name. If its process
// is killed, sweepTemps removes it.
func createTemp(path string) (*os.File, error) {
	return os.CreateTemp(filepath.Dir(path), "."+strings.TrimPrefix(filepath.Base(path), ".")+".*"+tempSuffix)
}

const tempSuffix = ".pgtender-tmp"

// localWriter marks its own failures, a full disk above all, so that nobody
// waits for the store to mend them.
type localWriter struct{ f *os.File }

func (w *localWriter) Write(b []byte) (int, error) {
	n, err := w.f.Write(b)
	return n, w.check(err)
}

func (w *localWriter) check(err error) error {
	if err == nil {
		return nil
	}
	return &localError{storage.NotAbsence(err)}
}

// localError is a failure on this machine: the store is not to blame.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }
