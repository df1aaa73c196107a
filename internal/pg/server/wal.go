package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
)

// Checkpoint runs CHECKPOINT and returns when it is done; on a standby that is
// a restartpoint, if one is possible. It needs a superuser, or (15+) pg_checkpoint.
func (c *Conn) Checkpoint(ctx context.Context) error {
	if _, err := c.Query(ctx, "CHECKPOINT"); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// SwitchWAL makes a primary end its current segment and gives the position
// just past the switch; where the segment holds nothing yet, nothing is
// written and the position is its start.
func (c *Conn) SwitchWAL(ctx context.Context) (pg.LSN, error) {
	return c.lsn(ctx, "switch WAL segment", `SELECT pg_switch_wal()`)
}

// CreateRestorePoint writes a named restore point on a primary and gives the
// position of its record's end.
func (c *Conn) CreateRestorePoint(ctx context.Context, name string) (pg.LSN, error) {
	return c.lsn(ctx, "create restore point "+name, `SELECT pg_create_restore_point($1)`, name)
}

func (c *Conn) lsn(ctx context.Context, what, sql string, args ...string) (pg.LSN, error) {
	row, err := c.row(ctx, 1, sql, args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	l, err := pg.ParseLSN(row[0])
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	return l, nil
}

// digestPiece is how much of a file one question about its content covers: the
// server holds it in memory.
const digestPiece = 512 << 10

// HasWAL reports whether the server's pg_wal has a file of that name whose first
// length bytes are those that content begins with. The server reads and digests
// its own, so little is sent. It needs a superuser or pg_read_server_files.
func (c *Conn) HasWAL(ctx context.Context, name string, content io.ReaderAt, length int64) (bool, error) {
	for at := int64(0); at < length; at += digestPiece {
		n := min(length-at, digestPiece)
		own := sha256.New()
		if _, err := io.Copy(own, io.NewSectionReader(content, at, n)); err != nil {
			return false, err
		}
		// With missing_ok (the last argument) a file that is not there is NULL.
		row, err := c.row(ctx, 1, `SELECT encode(sha256(pg_read_binary_file('pg_wal/' || $1::text, $2::bigint, $3::bigint, true)), 'hex')`,
			name, strconv.FormatInt(at, 10), strconv.FormatInt(n, 10))
		if err != nil {
			return false, fmt.Errorf("digest pg_wal/%s: %w", name, err)
		}
		if row[0] != hex.EncodeToString(own.Sum(nil)) {
			return false, nil
		}
	}
	return true, nil
}

// ControlCheckpoint is the latest checkpoint in pg_control; on a standby, the
// latest restartpoint.
type ControlCheckpoint struct {
	Redo       pg.Pos // where recovery from it would begin
	Checkpoint pg.LSN // of the checkpoint record
	Time       time.Time
}

// LastCheckpoint reads the latest checkpoint in pg_control: on a standby, the
// restartpoint that a backup started there without a newer one would begin at.
func (c *Conn) LastCheckpoint(ctx context.Context) (ControlCheckpoint, error) {
	row, err := c.row(ctx, 4, `SELECT redo_lsn, timeline_id, checkpoint_lsn, extract(epoch FROM checkpoint_time)
		FROM pg_control_checkpoint()`)
	if err != nil {
		return ControlCheckpoint{}, fmt.Errorf("read the last checkpoint: %w", err)
	}
	p := fields{row: row}
	cp := ControlCheckpoint{
		Redo:       pg.Pos{LSN: p.lsn(0), Timeline: pg.Timeline(p.int(1))},
		Checkpoint: p.lsn(2),
		Time:       p.epoch(3),
	}
	if p.err != nil {
		return ControlCheckpoint{}, fmt.Errorf("read the last checkpoint: %w", p.err)
	}
	return cp, nil
}

// minRecovery reads the position up to which a standby must replay to be
// consistent, which is where a backup that stops now ends.
func (c *Conn) minRecovery(ctx context.Context) (pg.Pos, error) {
	row, err := c.row(ctx, 2, `SELECT min_recovery_end_lsn, min_recovery_end_timeline FROM pg_control_recovery()`)
	if err != nil {
		return pg.Pos{}, fmt.Errorf("read the minimum recovery point: %w", err)
	}
	p := fields{row: row}
	return pg.Pos{LSN: p.lsn(0), Timeline: pg.Timeline(p.int(1))}, p.err
}

// ArchiverStats is pg_stat_archiver: what archive_command did since the
// statistics were reset. Times are zero where nothing happened.
type ArchiverStats struct {
	Archived, Failed         int64
	LastArchived, LastFailed string // file names
	LastArchivedAt           time.Time
	LastFailedAt             time.Time
}

// ArchiverStats reads the archiver's statistics.
func (c *Conn) ArchiverStats(ctx context.Context) (ArchiverStats, error) {
	row, err := c.row(ctx, 6, `SELECT archived_count, failed_count, last_archived_wal, last_failed_wal,
		extract(epoch FROM last_archived_time), extract(epoch FROM last_failed_time) FROM pg_stat_archiver`)
	if err != nil {
		return ArchiverStats{}, fmt.Errorf("read archiver statistics: %w", err)
	}
	p := fields{row: row}
	s := ArchiverStats{
		Archived: p.int(0), Failed: p.int(1),
		LastArchived: row[2], LastFailed: row[3],
		LastArchivedAt: p.epoch(4), LastFailedAt: p.epoch(5),
	}
	if p.err != nil {
		return ArchiverStats{}, fmt.Errorf("read archiver statistics: %w", p.err)
	}
	return s, nil
}
