package repo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pgtender/pgtender/backup/storage"
)

// Suspend is [Writer.Commit] but for its end: the manifest goes under a key of
// its own, where the backup is pending. It does not exist yet and is not
// listed, but everything in it is kept, whatever becomes of this process, until
// [Repo.CommitPending] makes it a backup or [Repo.RemovePending] gives it up.
func (w *Writer) Suspend(ctx context.Context, c Contents) (Backup, error) {
	b, err := w.commit(ctx, c, KeyPending)
	if err != nil {
		return Backup{}, fmt.Errorf("keep backup %s until its WAL is archived: %w", w.id, err)
	}
	return b, nil
}

// Pending lists the pending backups, oldest first, as Repo.Backups lists the
// committed ones. One that is committed already can still be among them, where
// a process was killed in the middle: CommitPending removes it.
func (r *Repo) Pending(ctx context.Context) ([]Listed, error) { return r.manifests(ctx, KeyPending) }

// CommitPending makes a pending backup exist: its manifest is read and checked
// whole, its packs are proved to be there, and the same bytes are put under the
// manifest's key. Several processes may do so at once, and again: the result is
// the same. What an error says about Commit holds here too.
func (r *Repo) CommitPending(ctx context.Context, id BackupID) (Backup, error) {
	b, err := r.commitPending(ctx, id)
	if errors.Is(err, storage.ErrNotExist) {
		// Somebody else may have been faster.
		if m, openErr := r.OpenManifest(ctx, id); openErr == nil {
			return m.Backup, nil
		}
	}
	if err != nil {
		return Backup{}, fmt.Errorf("commit pending backup %s: %w", id, err)
	}
	if err := r.RemovePending(ctx, id); err != nil {
		// The backup exists; whoever looks next removes this.
		r.log.Warn("pending manifest of a committed backup could not be removed", "backup", id.String(), "error", err)
	}
	return b, nil
}

func (r *Repo) commitPending(ctx context.Context, id BackupID) (_ Backup, err error) {
	key := r.Key(Key{Kind: KeyPending, ID: id})
	copied := &spool{dir: r.opts.TempDir, limit: spoolMemory}
	defer func() { err = errors.Join(err, copied.Close()) }()
	if err := r.copyObject(ctx, copied, key); err != nil {
		return Backup{}, err
	}
	// The copy is what will be stored, so it is the copy that is checked.
	m := &Manifest{repo: r, key: key, hash: newHasher()}
	if err := m.readHead(bufio.NewReaderSize(io.NewSectionReader(copied, 0, copied.size), manifestBuffer), id); err != nil {
		return Backup{}, at(err, key, 0)
	}
	all := func(Entry, error) bool { return true }
	if err := m.entries(io.NewSectionReader(copied, m.off, copied.size-m.off), all); err != nil {
		return Backup{}, at(err, key, 0)
	}
	if err := r.provePacks(ctx, m.Packs); err != nil {
		return Backup{}, err
	}
	manifest := r.Key(Key{Kind: KeyManifest, ID: id})
	return m.Backup, r.putManifest(ctx, manifest, join(section{copied, copied.size}))
}

// copyObject appends the bytes of an object to out, unchecked.
func (r *Repo) copyObject(ctx context.Context, out io.Writer, key string) (err error) {
	src, err := r.store.Get(ctx, key, 0, -1)
	if err != nil {
		return at(err, key, 0)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if _, err := io.Copy(out, src); err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	return nil
}

// RemovePending gives a pending backup up; its packs become garbage. One that
// is not there is not an error.
func (r *Repo) RemovePending(ctx context.Context, id BackupID) error {
	return r.Remove(ctx, Key{Kind: KeyPending, ID: id})
}
