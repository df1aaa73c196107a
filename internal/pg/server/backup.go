package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
)

// BackupOptions says how to start a backup.
type BackupOptions struct {
	Label     string        // goes into backup_label; required, one line
	Fast      bool          // checkpoint at once instead of spread over time
	KeepAlive time.Duration // how often the session is tried while files are copied; 30 s if 0
}

// Backup is a backup in progress: the server is in backup mode as long as the
// session of its [Conn] lives. Other statements may use the Conn meanwhile.
// End it by Stop or Abort, from one goroutine.
type Backup struct {
	// Start is where recovery of this backup begins. On a standby that is the
	// last restartpoint's redo, and may be an earlier backup's Start as well.
	Start       pg.Pos
	FromStandby bool

	conn   *Conn
	ctx    context.Context // ends, with a cause, when the backup can no longer succeed
	cancel context.CancelCauseFunc
	quit   chan struct{} // closed (then nil) to end the goroutine that tries the session
	watch  chan struct{} // closed when it has ended
}

// BackupEnd is what the server says at the end of a backup.
type BackupEnd struct {
	// End is the position that recovery must reach at least. WAL from Start to
	// End must be kept with the backup.
	End pg.Pos
	// Label is the content of backup_label, and TablespaceMap of tablespace_map
	// (empty: no such file). They are to be stored as they are.
	Label, TablespaceMap []byte
}

// StartBackup puts the server into backup mode and returns once its starting
// checkpoint is done. The returned context ends when ctx does, with
// [ErrPromoted] or [ErrSessionLost] as its cause when the server can no longer
// complete the backup, and after Stop or Abort: copy files under it. After an
// error of the server, the Conn is closed.
func (c *Conn) StartBackup(ctx context.Context, o BackupOptions) (context.Context, *Backup, error) {
	if o.Label == "" || strings.ContainsAny(o.Label, "\n\r") {
		return nil, nil, fmt.Errorf("start backup: label %q: want one line of text", o.Label)
	}
	b := &Backup{conn: c, quit: make(chan struct{}), watch: make(chan struct{})}
	if err := b.start(ctx, o); err != nil {
		c.Close() // the server may be in backup mode already
		return nil, nil, fmt.Errorf("start backup %s: %w", o.Label, err)
	}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	go b.keepAlive(b.quit, cmp.Or(o.KeepAlive, 30*time.Second))
	return b.ctx, b, nil
}

func (b *Backup) start(ctx context.Context, o BackupOptions) error {
	row, err := b.conn.row(ctx, 1, `SELECT pg_is_in_recovery()`)
	if err != nil {
		return err
	}
	b.FromStandby = row[0] == "t"
	before, err := b.conn.LastCheckpoint(ctx)
	if err != nil {
		return err
	}
	fast := "false"
	if o.Fast {
		fast = "true"
	}
	start := `SELECT pg_backup_start($1, $2::boolean)`
	if b.conn.version.Major() < 15 {
		start = `SELECT pg_start_backup($1, $2::boolean, false)`
	}
	if b.Start.LSN, err = b.conn.lsn(ctx, "enter backup mode", start, o.Label, fast); err != nil {
		return err
	}
	after, err := b.conn.LastCheckpoint(ctx)
	if err != nil {
		return err
	}
	// The function gives no timeline, the label is there only at the end. The
	// start is a checkpoint that pg_control held between our two looks.
	switch {
	case after.Redo.LSN == b.Start.LSN, after.Redo.Timeline == before.Redo.Timeline:
		b.Start.Timeline = after.Redo.Timeline
	case before.Redo.LSN == b.Start.LSN:
		b.Start.Timeline = before.Redo.Timeline
	default:
		return fmt.Errorf("the server went from timeline %s to %s meanwhile (hint: start again)",
			before.Redo.Timeline, after.Redo.Timeline)
	}
	return nil
}

// keepAlive tries the session, so that no firewall forgets it, and ends the
// backup's context when the backup is lost.
func (b *Backup) keepAlive(quit <-chan struct{}, every time.Duration) {
	defer close(b.watch)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return
		case <-b.ctx.Done():
			return
		case <-tick.C:
		}
		if err := b.alive(every); err != nil {
			b.cancel(err)
			return
		}
	}
}

// alive does not run under the backup's context, whose end would break the
// session in the middle of the statement, and Stop with it.
func (b *Backup) alive(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), max(limit, closeTimeout))
	defer cancel()
	row, err := b.conn.row(ctx, 1, `SELECT pg_is_in_recovery()`)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSessionLost, err)
	}
	if b.FromStandby && row[0] != "t" {
		return ErrPromoted
	}
	return nil
}

// Stop ends the backup on the server, without waiting for WAL to be archived.
// Every file must have been copied, pg_control last. After an error there is
// no backup, and the Conn is closed. ctx may be the backup's own.
func (b *Backup) Stop(ctx context.Context) (BackupEnd, error) {
	if b.conn == nil {
		return BackupEnd{}, errors.New("stop backup: it has ended already")
	}
	b.endWatch()
	end, err := BackupEnd{}, context.Cause(b.ctx)
	if err == nil {
		end, err = b.stop(ctx)
	}
	if err != nil {
		if ctx.Err() == nil && IsUnavailable(err) && !errors.Is(err, ErrSessionLost) {
			err = fmt.Errorf("%w: %w", ErrSessionLost, err)
		}
		b.Abort()
		return BackupEnd{}, fmt.Errorf("stop backup: %w", err)
	}
	b.conn = nil
	b.cancel(nil)
	return end, nil
}

func (b *Backup) endWatch() {
	if b.quit != nil {
		close(b.quit)
		b.quit = nil
	}
	<-b.watch
}

func (b *Backup) stop(ctx context.Context) (BackupEnd, error) {
	before, err := b.conn.minRecovery(ctx)
	if err != nil {
		return BackupEnd{}, err
	}
	stop := `SELECT lsn, labelfile, spcmapfile FROM pg_backup_stop(false)`
	if b.conn.version.Major() < 15 {
		stop = `SELECT lsn, labelfile, spcmapfile FROM pg_stop_backup(false, false)`
	}
	row, err := b.conn.row(ctx, 3, stop)
	if err != nil {
		if now := b.alive(closeTimeout); errors.Is(now, ErrPromoted) { // messages are translated, so ask
			err = now
		}
		return BackupEnd{}, err
	}
	after, err := b.conn.minRecovery(ctx)
	if err != nil {
		return BackupEnd{}, err
	}
	end := BackupEnd{Label: []byte(row[1]), TablespaceMap: []byte(row[2])}
	if end.End.LSN, err = pg.ParseLSN(row[0]); err != nil {
		return BackupEnd{}, err
	}
	if err := b.checkLabel(end.Label); err != nil {
		return BackupEnd{}, err
	}
	if end.End.Timeline, err = b.endTimeline(end.End.LSN, before, after); err != nil {
		return BackupEnd{}, err
	}
	return end, nil
}

// checkLabel compares what the label says with what was said at the start.
func (b *Backup) checkLabel(content []byte) error {
	l, err := pg.ParseBackupLabel(content)
	if err != nil {
		return err
	}
	if l.StartPos() != b.Start || l.FromStandby() != b.FromStandby {
		return fmt.Errorf("the label names the start %s from a %s, the server began at %s", l.StartPos(), l.From, b.Start)
	}
	return nil
}

// endTimeline gives the timeline of a backup's end. A primary's does not change
// while it runs. A standby's end is the minimum recovery point, whose timeline
// the function does not give: it is known from a look before and one after.
func (b *Backup) endTimeline(end pg.LSN, before, after pg.Pos) (pg.Timeline, error) {
	switch {
	case !b.FromStandby:
		return b.Start.Timeline, nil
	case end == after.LSN, before.Timeline == after.Timeline:
		return after.Timeline, nil
	case end == before.LSN:
		return before.Timeline, nil
	}
	return 0, fmt.Errorf("the standby went from timeline %s to %s at the moment of the stop (hint: take the backup again)",
		before.Timeline, after.Timeline)
}

// errAborted is the cause of the end of an aborted backup's context.
var errAborted = errors.New("the backup was aborted")

// Abort gives the backup up by closing the Conn, which is how a server leaves
// backup mode without writing an end record. After Stop or Abort it does
// nothing.
func (b *Backup) Abort() {
	if b.conn == nil {
		return
	}
	b.cancel(errAborted)
	b.endWatch()
	b.conn.Close()
	b.conn = nil
}
