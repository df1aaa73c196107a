package server

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
)

// Info is what a server says about itself. Settings that the user may not see
// are empty (data_directory and the like need pg_read_all_settings).
type Info struct {
	Version    Version
	SystemID   pg.SystemID
	InRecovery bool

	// Timeline is the one being written, on a primary. On a standby it is the
	// newest one that pg_control names, which right after a timeline switch may
	// be behind replay; [ReplicationConn.Identify] is exact there.
	Timeline pg.Timeline

	SegmentSize     pg.SegmentSize
	BlockSize       int // bytes of a data page
	DataChecksums   bool
	WALLogHints     bool
	FullPageWrites  bool
	WALLevel        string
	DataDirectory   string
	ArchiveMode     string // off, on, always
	ArchiveCommand  string
	ArchiveLibrary  string // "" before 15
	RestoreCommand  string
	PostmasterStart time.Time
}

// infoSQL works on 13 to 18. The functions read shared memory and pg_control.
const infoSQL = `
WITH r AS MATERIALIZED (SELECT pg_is_in_recovery() AS standby)
SELECT current_setting('server_version_num'),
       (SELECT system_identifier FROM pg_control_system()),
       r.standby,
       CASE WHEN r.standby THEN '' ELSE pg_walfile_name(pg_current_wal_lsn()) END,
       (SELECT greatest(c.timeline_id, m.min_recovery_end_timeline)
          FROM pg_control_checkpoint() c, pg_control_recovery() m),
       i.bytes_per_wal_segment, i.database_block_size, i.data_page_checksum_version,
       extract(epoch FROM pg_postmaster_start_time())
  FROM r, pg_control_init() i`

// Info reads what the server says about itself.
func (c *Conn) Info(ctx context.Context) (Info, error) {
	row, err := c.row(ctx, 9, infoSQL)
	if err != nil {
		return Info{}, fmt.Errorf("read facts of the server: %w", err)
	}
	info, err := parseInfo(row)
	if err != nil {
		return Info{}, fmt.Errorf("read facts of the server: %w", err)
	}
	set, err := c.Settings(ctx, "wal_log_hints", "full_page_writes", "wal_level", "data_directory",
		"archive_mode", "archive_command", "archive_library", "restore_command")
	if err != nil {
		return Info{}, err
	}
	info.WALLogHints = set["wal_log_hints"] == "on"
	info.FullPageWrites = set["full_page_writes"] == "on"
	info.WALLevel = set["wal_level"]
	info.DataDirectory = set["data_directory"]
	info.ArchiveMode = set["archive_mode"]
	info.ArchiveCommand = set["archive_command"]
	if info.ArchiveCommand == "(disabled)" { // show_archive_command, when archive_mode is off
		info.ArchiveCommand = ""
	}
	info.ArchiveLibrary = set["archive_library"]
	info.RestoreCommand = set["restore_command"]
	return info, nil
}

func parseInfo(row []string) (Info, error) {
	p := fields{row: row}
	info := Info{
		SystemID:        pg.SystemID(p.int(1)), // a signed column that holds an unsigned number
		InRecovery:      row[2] == "t",
		Timeline:        pg.Timeline(p.int(4)),
		SegmentSize:     pg.SegmentSize(p.int(5)),
		BlockSize:       int(p.int(6)),
		DataChecksums:   p.int(7) != 0,
		PostmasterStart: p.epoch(8),
	}
	var err error
	if info.Version, err = parseVersion(row[0]); err != nil {
		return Info{}, err
	}
	if name := row[3]; name != "" {
		if len(name) != 24 {
			return Info{}, fmt.Errorf("pg_walfile_name gave %q", name)
		}
		if info.Timeline, err = pg.ParseTimeline(name[:8]); err != nil {
			return Info{}, err
		}
	}
	if p.err != nil {
		return Info{}, p.err
	}
	if !info.SegmentSize.Valid() {
		return Info{}, fmt.Errorf("the server names a WAL segment size of %d bytes", info.SegmentSize)
	}
	return info, nil
}

// Settings reads settings as pg_settings shows them: numbers without a unit, in
// the setting's own unit. A name that the server does not know, or that the
// user may not see, is not in the result.
func (c *Conn) Settings(ctx context.Context, names ...string) (map[string]string, error) {
	for _, n := range names {
		if strings.ContainsAny(n, `{},"\ `) {
			return nil, fmt.Errorf("read settings: %q is not the name of one", n)
		}
	}
	rows, err := c.Query(ctx, `SELECT name, setting FROM pg_settings WHERE name = ANY ($1::text[])`,
		"{"+strings.Join(names, ",")+"}")
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	out := make(map[string]string, len(rows))
	for _, row := range rows {
		out[row[0]] = row[1]
	}
	return out, nil
}

// Positions says how far a server's WAL has come. What does not apply is zero.
type Positions struct {
	InRecovery bool

	Insert, Write, Flush pg.LSN // primary: handed out, written, durable

	Receive pg.LSN // standby: received and flushed by streaming; 0 if it never streamed
	Replay  pg.LSN // standby: replayed; on a promoted server, where replay ended
	Paused  bool   // standby: replay is paused or about to be
}

// Positions reads how far the server's WAL has come.
func (c *Conn) Positions(ctx context.Context) (Positions, error) {
	row, err := c.row(ctx, 6, `
WITH r AS MATERIALIZED (SELECT pg_is_in_recovery() AS standby)
SELECT r.standby,
       CASE WHEN NOT r.standby THEN pg_current_wal_insert_lsn() END,
       CASE WHEN NOT r.standby THEN pg_current_wal_lsn() END,
       CASE WHEN NOT r.standby THEN pg_current_wal_flush_lsn() END,
       pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()
  FROM r`)
	if err != nil {
		return Positions{}, fmt.Errorf("read WAL positions: %w", err)
	}
	p := fields{row: row}
	pos := Positions{
		InRecovery: row[0] == "t",
		Insert:     p.lsn(1), Write: p.lsn(2), Flush: p.lsn(3),
		Receive: p.lsn(4), Replay: p.lsn(5),
	}
	if p.err != nil {
		return Positions{}, fmt.Errorf("read WAL positions: %w", p.err)
	}
	if pos.InRecovery {
		// Not in the statement above: it is an error on a server that has just
		// been promoted.
		row, err := c.row(ctx, 1, `SELECT pg_is_wal_replay_paused()`)
		if err != nil && SQLState(err) != "55000" { // object_not_in_prerequisite_state
			return Positions{}, fmt.Errorf("read WAL positions: %w", err)
		}
		pos.Paused = err == nil && row[0] == "t"
	}
	return pos, nil
}

// fields parses the text columns of a row and keeps the first error. An empty
// column (NULL) is zero.
type fields struct {
	row []string
	err error
}

func (f *fields) keep(err error) {
	if f.err == nil {
		f.err = err
	}
}

func (f *fields) int(i int) int64 {
	if f.row[i] == "" {
		return 0
	}
	v, err := strconv.ParseInt(f.row[i], 10, 64)
	f.keep(err)
	return v
}

func (f *fields) lsn(i int) pg.LSN {
	if f.row[i] == "" {
		return 0
	}
	v, err := pg.ParseLSN(f.row[i])
	f.keep(err)
	return v
}

// epoch parses seconds since 1970 with a fraction of up to six digits.
func (f *fields) epoch(i int) time.Time {
	if f.row[i] == "" {
		return time.Time{}
	}
	whole, frac, _ := strings.Cut(f.row[i], ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	f.keep(err)
	if len(frac) > 9 {
		f.keep(fmt.Errorf("parse time %q: fraction is too long", f.row[i]))
		return time.Time{}
	}
	var nano int64
	if frac != "" {
		nano, err = strconv.ParseInt(frac+strings.Repeat("0", 9-len(frac)), 10, 64)
		f.keep(err)
	}
	return time.Unix(sec, nano).UTC()
}
