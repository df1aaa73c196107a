package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// image is what is copied, and then what is known of it.
type image struct {
	dir   *pg.DataDir
	files []*file
	pages *pages

	own     []*ownFile // read or made at the end, stored after all others
	start   pg.Pos
	end     pg.Pos
	label   pg.BackupLabel
	control pg.Control // as stored
	history pg.History // of end's timeline
}

// ownFile is a file whose content is in memory.
type ownFile struct {
	entry repo.Entry
	data  []byte
}

// copyFiles lists what belongs to the backup and copies it, except pg_control.
func (t *run) copyFiles(ctx context.Context, w *repo.Writer, start pg.LSN) (*image, error) {
	t.phase(PhaseScan)
	begin := time.Now()
	control := t.facts.Control
	dir, err := pg.OpenDataDir(t.DataDir, control.Layout())
	if err != nil {
		return nil, err
	}
	img := &image{dir: dir, pages: &pages{
		verifier: control.PageVerifier(), start: start, segment: control.RelSegBlocks, accept: t.AllowDamagedPages, log: t.Log,
	}}
	if img.files, err = scan(ctx, dir, int64(control.BlockSize), t.Log); err != nil {
		return nil, err
	}
	t.files = len(img.files)
	c := &copier{root: dir.Root, blockSize: int(control.BlockSize), writer: w, pages: img.pages, rate: &rate{perSecond: t.MaxRate}}
	if err := t.divide(ctx, img.files, c); err != nil {
		return nil, err
	}
	t.phase(PhaseCopy)
	stop := t.report(c)
	err = c.run(ctx, img.files, t.Workers)
	stop()
	t.result.Read, t.result.Copy = c.bytes.Load(), time.Since(begin)
	return img, err
}

// report tells the progress twice a second until stop is called.
func (t *run) report(c *copier) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second / 2)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				t.Progress(Progress{Phase: PhaseCopy, Done: c.bytes.Load(), Total: t.total, Files: t.files})
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

// stop reads pg_control, which must be the last file, and ends backup mode.
func (img *image) stop(ctx context.Context, t *run, b *server.Backup) error {
	raw, control, err := pg.ReadControl(ctx, img.dir.Root)
	if err != nil {
		return err
	}
	end, err := b.Stop(ctx)
	if err != nil {
		return err
	}
	img.start, img.end = b.Start, end.End
	if img.label, err = pg.ParseBackupLabel(end.Label); err != nil {
		return err
	}
	if b.FromStandby {
		if raw, err = raiseMinRecovery(raw, control, end.End); err != nil {
			return err
		}
	}
	if img.control, err = pg.ParseControl(raw); err != nil {
		return fmt.Errorf("read %s: %w", pg.ControlPath, err)
	}
	if err := img.pages.settle(end.End.LSN); err != nil {
		return err
	}
	img.add(pg.ControlPath, raw)
	img.add("backup_label", end.Label)
	if len(end.TablespaceMap) > 0 {
		img.add("tablespace_map", end.TablespaceMap)
	}
	return nil
}

// raiseMinRecovery makes the pg_control of a standby's backup name the backup's
// stop as the point that replay must reach. The server does not: pg_control was
// read before the stop, while pages that were copied later may be newer. From
// this file recovery takes the end of a standby's backup (xlogrecovery.c,
// read_backup_label and CheckRecoveryConsistency).
func raiseMinRecovery(raw []byte, c pg.Control, end pg.Pos) ([]byte, error) {
	if c.State != pg.StateArchiveRecovery {
		return nil, fmt.Errorf("%s of the standby says %q in place of %q: %w", pg.ControlPath, c.State, pg.StateArchiveRecovery, server.ErrPromoted)
	}
	if c.MinRecovery >= end.LSN {
		return raw, nil
	}
	return pg.EditControl(raw, func(c *pg.Control) { c.MinRecovery, c.MinRecoveryTLI = end.LSN, end.Timeline })
}

// add appends a file that is in memory.
func (img *image) add(path string, data []byte) {
	img.own = append(img.own, &ownFile{
		entry: repo.Entry{Path: path, Mode: 0o600, Modified: time.Now(), Size: int64(len(data)), Digest: repo.DigestOf(data)},
		data:  data,
	})
}

// suspend stores the last files and the manifest, as that of a pending backup.
func (img *image) suspend(ctx context.Context, t *run, w *repo.Writer) (repo.Backup, error) {
	if err := img.findHistory(ctx, t.lines); err != nil {
		return repo.Backup{}, err
	}
	if !img.history.Contains(img.start) {
		return repo.Backup{}, fmt.Errorf("the backup started at %s, which is not on the history of timeline %s, where it stopped (hint: take it again)", img.start, img.end.Timeline)
	}
	if err := img.storeOwn(ctx, w); err != nil {
		return repo.Backup{}, err
	}
	contents := repo.Contents{Backup: img.describe(t), Entries: img.entries()}
	if t.parent != nil {
		// Of all that the parent leans on the manifest will name what an entry
		// still needs.
		contents.Generations, contents.Packs = t.parent.Generations, t.parent.Packs
	}
	return w.Suspend(ctx, contents)
}

// findHistory finds the history of the timeline that the backup ended on.
func (img *image) findHistory(ctx context.Context, l *lineages) (err error) {
	if img.end.Timeline == 1 {
		img.history = pg.FirstTimeline()
		return nil
	}
	var content []byte
	if img.history, content, err = historyOf(ctx, img.dir.Root, img.end.Timeline, l); err != nil || content == nil {
		return err
	}
	// A restore to any later timeline needs it as well, and the member that was
	// promoted may not have come to archive it.
	_, err = l.repo.PutHistory(ctx, img.end.Timeline, content)
	return err
}

// historyOf reads the history of a timeline: from pg_wal, where a server that
// followed it keeps it, else from the archive. content is the file in pg_wal,
// nil if it is not there.
func historyOf(ctx context.Context, root string, tli pg.Timeline, l *lineages) (h pg.History, content []byte, err error) {
	if tli == 1 {
		return pg.FirstTimeline(), nil, nil
	}
	content, err = os.ReadFile(filepath.Join(root, "pg_wal", pg.HistoryName(tli)))
	if err == nil {
		h, err = pg.ParseHistory(tli, content)
		return h, content, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return h, nil, fmt.Errorf("read the history of timeline %s: %w", tli, err)
	}
	archived, err := l.all(ctx)
	if err != nil {
		return h, nil, err
	}
	archived = slices.DeleteFunc(archived, func(h pg.History) bool { return h.Timeline != tli })
	if len(archived) != 1 {
		return h, nil, finding.WithHint(fmt.Errorf("find the history of timeline %s: it is not in pg_wal, and the archive knows %d timelines of this number", tli, len(archived)),
			"copy %s from another member's pg_wal into this one's", pg.HistoryName(tli))
	}
	return archived[0], nil, nil
}

// storeOwn stores the files that are in memory: small ones, in one frame.
func (img *image) storeOwn(ctx context.Context, w *repo.Writer) error {
	number := uint32(0)
	for _, f := range img.files {
		number = max(number, f.entry.File)
	}
	var members []repo.Member
	for _, f := range img.own {
		number++
		f.entry.File = number
		members = append(members, repo.Member{File: number, Data: f.data})
	}
	p := w.Pack()
	stored, err := p.WriteBundle(ctx, members)
	if err != nil {
		return fmt.Errorf("store pg_control and backup_label: %w", err)
	}
	for i, f := range img.own {
		f.entry.Bundle = &repo.BundleRef{Place: stored.Place, Member: uint32(i)}
	}
	return p.Close(ctx)
}

// entries gives the manifest's entries in its order.
func (img *image) entries() iter.Seq2[repo.Entry, error] {
	all := make([]*repo.Entry, 0, len(img.files)+len(img.own))
	for _, f := range img.files {
		if !f.gone {
			all = append(all, &f.entry)
		}
	}
	for _, f := range img.own {
		all = append(all, &f.entry)
	}
	slices.SortFunc(all, func(a, b *repo.Entry) int { return cmp.Compare(a.Path, b.Path) })
	return func(yield func(repo.Entry, error) bool) {
		for _, e := range all {
			if !yield(*e, nil) {
				return
			}
		}
	}
}

// describe gives the manifest's description. Commit fills in the counts.
func (img *image) describe(t *run) repo.Backup {
	c, id := img.control, t.Repo.Cluster()
	b := repo.Backup{
		ID: t.id, Kind: t.plan.Kind, Scope: id.Scope, Group: id.Group, SystemID: id.SystemID,
		ServerVersion: int(t.facts.Server.Version), CatalogVersion: c.CatalogVersion, ControlVersion: c.ControlVersion,
		BlockSize: int(c.BlockSize), SegmentSize: c.SegmentSize, ChecksumVersion: c.DataChecksumVersion, WALLogHints: c.WALLogHints,
		Start: img.start, Stop: img.end, Checkpoint: img.label.Checkpoint, Redo: img.label.Start, History: img.history.Forks,
		SourceMember: t.Member, SourceRole: t.plan.Role, SourceHost: t.Host,
		Started: t.started, Finished: ended(t.started, time.Since(t.started), time.Now()), ToolVersion: t.ToolVersion,
		WALDirectory: img.dir.WALLocation,
	}
	if t.parent != nil {
		b.Parent = t.parent.ID()
	}
	if b.SourceRole == repo.RoleStandby {
		b.MinRecovery = c.MinRecovery
	}
	for _, s := range img.dir.Tablespaces {
		b.Tablespaces = append(b.Tablespaces, repo.Tablespace(s))
	}
	slices.SortFunc(b.Tablespaces, func(x, y repo.Tablespace) int { return cmp.Compare(x.OID, y.OID) })
	b.DamagedPages, b.Damage = img.pages.accepted()
	return b
}

// ended gives the time to write down as a backup's end. Where the clock was set
// back since the start, the time that went by counts: a finished copy must not
// be lost because its end lies before its beginning.
func ended(started time.Time, elapsed time.Duration, now time.Time) time.Time {
	if end := started.Add(elapsed); end.Round(0).After(now.Round(0)) { // by the wall clock
		return end
	}
	return now
}
