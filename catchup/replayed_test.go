package catchup_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// logged is what the leader's archived WAL says about a backup.
type logged struct {
	repo    *repo.Repo
	history pg.History
	layout  pg.Layout
	control pg.Control
	// during is what WAL from the backup's start to its end changed. The first
	// change of a page in it comes with the whole page, for a backup was running:
	// whatever a copy has there, replay makes it one.
	during *wal.BlockMap
}

// loggedDuring reads the WAL of a backup.
func (x *branched) loggedDuring(t testing.TB, dir string, b repo.Backup) *logged {
	t.Helper()
	_, control, err := pg.ReadControl(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	l := &logged{repo: x.repo, history: x.leader(t).History, layout: control.Layout(), control: control, during: new(wal.BlockMap)}
	err = l.read(t.Context(), b.Start.LSN, b.Stop.LSN, func(rec *wal.Record) error {
		_, err := l.during.Record(rec)
		return err
	})
	if err != nil {
		t.Fatalf("read WAL of the backup from %s to %s: %v", b.Start, b.Stop, err)
	}
	return l
}

// read gives the records that start from one position to before another.
func (l *logged) read(ctx context.Context, from, to pg.LSN, f func(*wal.Record) error) error {
	size := l.control.SegmentSize
	in := wal.NewReader(&archive.Source{Repo: l.repo, History: l.history, SegmentSize: size}, from,
		wal.ReaderOptions{History: l.history, SegmentSize: size, SystemID: l.control.SystemID})
	defer in.Close()
	for {
		rec, err := in.Next(ctx)
		if err == io.EOF && in.End() < to {
			return fmt.Errorf("it ends at %s: %w", in.End(), in.Reason())
		}
		if err == io.EOF || err == nil && rec.Start >= to {
			return nil
		}
		if err == nil {
			err = f(rec)
		}
		if err != nil {
			return err
		}
	}
}

// block says which block of which relation a page of a file is.
func (l *logged) block(name string, page uint32) (wal.Relation, uint32) {
	f := l.layout.Classify(name, false).Rel
	return wal.Relation{Tablespace: f.Tablespace, Database: f.Relation.Database, Number: f.Number}, f.FirstBlock(l.control.RelSegBlocks) + page
}

// changes reports whether replay of the backup's WAL writes a page as a whole, or
// cuts it off.
func (l *logged) changes(name string, page uint32) bool {
	rel, block := l.block(name, page)
	return l.during.Whole(wal.Database{Tablespace: rel.Tablespace, Database: rel.Database}) || l.during.Recorded(rel, wal.Main).Changed(block)
}

// hintImage reports whether the record that ends at a position is a page's image
// that was logged for a hint bit (XLOG_FPI_FOR_HINT). Replay gives the page the
// record's position; but the primary leaves the page as it is, if it was about to be
// written just then and so counted as changed (MarkBufferDirtyHint, bufmgr.c). Then
// two copies of a page that hold the same have different positions.
func (l *logged) hintImage(ctx context.Context, name string, page uint32, end pg.LSN) (found bool, err error) {
	rel, block := l.block(name, page)
	size := l.control.SegmentSize
	from := size.Start(size.SegmentBefore(end))
	if size.Offset(end) < 2*blockSize && from > size.Start(1) {
		from = size.Start(size.SegmentBefore(from)) // it may begin there
	}
	err = l.read(ctx, from, end, func(rec *wal.Record) error {
		if rec.End != end || rec.Rmgr != 0 || rec.Info&0xf0 != 0xA0 {
			return nil
		}
		for _, b := range rec.Blocks {
			found = found || b.Relation == rel && b.Fork == wal.Main && b.Block == block && b.Image
		}
		return nil
	})
	return found, err
}

// replayed has the member and a restore of the same backup replay the same WAL, to
// the leader's next checkpoint and no further, and compares them again: now nothing
// is left that could still change. The member can follow the leader afterwards.
func (x *branched) replayed(t testing.TB, want string, l *logged) {
	t.Helper()
	x.primary.Exec(t, "CHECKPOINT")
	target := x.primary.Value(t, "SELECT checkpoint_lsn FROM pg_control_checkpoint()")
	for _, dir := range []string{x.old.DataDir, want} {
		c := x.adopt(t, dir)
		conf := filepath.Join(dir, "postgresql.auto.conf")
		before, err := os.ReadFile(conf)
		if err != nil {
			t.Fatal(err)
		}
		c.Append(t, "postgresql.auto.conf", fmt.Sprintf("\nprimary_conninfo = '%s'\nrestore_command = '%s'\nrecovery_target_timeline = 'latest'\nrecovery_target_lsn = '%s'\nrecovery_target_action = 'shutdown'\nhot_standby = 'off'\n",
			x.primary.ConnString(), x.restoreCommand(x.leader(t).History.Timeline), target))
		c.Launch(t)
		c.WaitExit(t)
		if err := os.WriteFile(conf, before, 0o600); err != nil {
			t.Fatal(err)
		}
		_, control, err := pg.ReadControl(t.Context(), dir)
		if err != nil || control.State != pg.StateShutDownInRecovery || control.Checkpoint.String() != target {
			t.Fatalf("%s was %s with a restartpoint at %s, not %s (%v)", dir, control.State, control.Checkpoint, target, err)
		}
	}
	diffs, err := compareTrees(t.Context(), x.old.DataDir, want, comparison{logged: l, after: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diffs.wrong {
		t.Errorf("after replay to %s, %s", target, d)
	}
	t.Logf("after replay to %s %s", target, diffs)
}
