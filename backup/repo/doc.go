// Package repo owns the repository format: keys, documents, packs of frames,
// page maps, manifests, WAL objects and histories, over a [storage.Store].
// docs/format.md specifies every byte and changes in the same commit.
//
// It refuses to judge: which backup to take, keep or use, and whose WAL is
// right, is decided elsewhere. It knows no DCS and reads no WAL record.
//
// Writing a backup, in order:
//
//	w, err := r.Create(ctx, id, WriteOptions{})
//	p := w.Pack()                        // one per goroutine
//	f, err := p.WriteRun(ctx, file, first, pages)
//	err = p.Close(ctx)                   // the last pack goes out
//	ref, err := w.WriteMap(ctx, file, table, pagemap)
//	b, err := w.Commit(ctx, Contents{…}) // the manifest: now it exists
//
// Whatever ends before the manifest is put leaves unreferenced packs, never a
// backup that is listed. Reading goes the other way: [Repo.Backups],
// [Repo.OpenManifest], [Repo.Locate], [Repo.Fetch].
//
// No byte leaves the package unchecked. Damage of any kind is an error that
// matches [ErrCorrupt] and names object, position and finding; a missing
// object is [storage.ErrNotExist] and nothing else is.
package repo
