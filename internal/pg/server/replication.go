package server

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgtender/pgtender/internal/pg"
)

// ReplicationConn is a session with a walsender, for physical replication. It
// runs one command at a time and is not safe for concurrent use. When a
// context ends in the middle of a command, the session is of no more use:
// close it.
type ReplicationConn struct {
	session
	notices []string // of the command that runs, the first maxNotices
}

const maxNotices = 100

// ConnectReplication opens a walsender session. The user needs the REPLICATION
// attribute and a "replication" line in pg_hba.conf.
func ConnectReplication(ctx context.Context, o Options) (*ReplicationConn, error) {
	s, err := connect(ctx, o, true)
	if err != nil {
		return nil, err
	}
	c := &ReplicationConn{session: s}
	text, err := c.Show(ctx, "server_version_num")
	if err == nil {
		c.version, err = parseVersion(text)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to %s: %w", s.target, err)
	}
	return c, nil
}

// Identity is the answer to IDENTIFY_SYSTEM.
type Identity struct {
	SystemID pg.SystemID
	// Pos is the timeline and the position up to which WAL can be streamed:
	// flushed on a primary, received or replayed on a standby.
	Pos pg.Pos
}

// Identify asks which cluster this is and how far its WAL goes.
func (c *ReplicationConn) Identify(ctx context.Context) (Identity, error) {
	row, err := c.commandRow(ctx, 3, "IDENTIFY_SYSTEM")
	if err != nil {
		return Identity{}, err
	}
	var id Identity
	if id.SystemID, err = pg.ParseSystemID(row[0]); err != nil {
		return Identity{}, fmt.Errorf("run IDENTIFY_SYSTEM: %w", err)
	}
	if id.Pos, err = parsePos(row[1], row[2]); err != nil {
		return Identity{}, fmt.Errorf("run IDENTIFY_SYSTEM: %w", err)
	}
	return id, nil
}

// TimelineHistory fetches the history file of a timeline, unparsed. Timeline 1
// has none.
func (c *ReplicationConn) TimelineHistory(ctx context.Context, t pg.Timeline) ([]byte, error) {
	row, err := c.commandRow(ctx, 2, "TIMELINE_HISTORY "+t.String())
	if err != nil {
		return nil, err
	}
	if row[0] != pg.HistoryName(t) {
		return nil, fmt.Errorf("run TIMELINE_HISTORY %s: the server sent %q", t, row[0])
	}
	return []byte(row[1]), nil
}

// Show reads one setting as SHOW prints it, with its unit.
func (c *ReplicationConn) Show(ctx context.Context, name string) (string, error) {
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_.") != "" {
		return "", fmt.Errorf("show %q: not the name of a setting", name)
	}
	row, err := c.commandRow(ctx, 1, "SHOW "+name)
	if err != nil {
		return "", err
	}
	return row[0], nil
}

// SegmentSize reads the size of the cluster's WAL segments.
func (c *ReplicationConn) SegmentSize(ctx context.Context) (pg.SegmentSize, error) {
	text, err := c.Show(ctx, "wal_segment_size")
	if err != nil {
		return 0, err
	}
	return parseSegmentSize(text)
}

// parseSegmentSize parses what SHOW wal_segment_size prints: 1MB to 1GB.
func parseSegmentSize(s string) (pg.SegmentSize, error) {
	unit := uint64(1)
	number := s
	for suffix, bytes := range map[string]uint64{"MB": 1 << 20, "GB": 1 << 30, "kB": 1 << 10} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			number, unit = n, bytes
		}
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil || n*unit > 1<<30 || !pg.SegmentSize(n*unit).Valid() {
		return 0, fmt.Errorf("parse wal_segment_size %q: want a power of two from 1MB to 1GB", s)
	}
	return pg.SegmentSize(n * unit), nil
}

// CreateTemporarySlot creates a physical slot that ends with this session. It
// holds WAL at once.
func (c *ReplicationConn) CreateTemporarySlot(ctx context.Context, name string) error {
	if err := checkSlotName(name); err != nil {
		return err
	}
	_, err := c.commandRow(ctx, 1, "CREATE_REPLICATION_SLOT "+name+" TEMPORARY PHYSICAL RESERVE_WAL")
	return err
}

// commandRow runs a command that answers with one row.
func (c *ReplicationConn) commandRow(ctx context.Context, columns int, command string) ([]string, error) {
	res, err := c.pc.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, explain(ctx, "run "+command, err)
	}
	if len(res) == 0 {
		return nil, fmt.Errorf("run %s: the server gave no result", command)
	}
	return oneRow(texts(res[0].Rows), columns, command)
}

func parsePos(timeline, lsn string) (pg.Pos, error) {
	t, err := strconv.ParseUint(timeline, 10, 32)
	if err != nil || t == 0 {
		return pg.Pos{}, fmt.Errorf("parse timeline %q: want a positive number", timeline)
	}
	l, err := pg.ParseLSN(lsn)
	if err != nil {
		return pg.Pos{}, err
	}
	return pg.Pos{Timeline: pg.Timeline(t), LSN: l}, nil
}

// send starts a command whose answer is read message by message.
func (c *ReplicationConn) send(ctx context.Context, command string) error {
	if c.pc.IsClosed() {
		return net.ErrClosed
	}
	c.notices = nil
	c.pc.Frontend().SendQuery(&pgproto3.Query{String: command})
	return c.flush(ctx)
}

// flush writes what was queued. Writing may block when the server does not
// read, so ctx ends it.
func (c *ReplicationConn) flush(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.pc.Conn().SetWriteDeadline(time.Unix(1, 0)) })
	err := c.pc.Frontend().Flush()
	if !stop() {
		c.pc.Conn().Close() // half a message may be on the way
		return cmp.Or(context.Cause(ctx), err)
	}
	return err
}

// next gives the next message that is not about the session as a whole. An
// error of the server becomes an error, after which the session can be used
// again if it lives.
func (c *ReplicationConn) next(ctx context.Context) (pgproto3.BackendMessage, error) {
	for {
		msg, err := c.pc.ReceiveMessage(ctx)
		if err != nil {
			return nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.NoticeResponse:
			c.notice(m)
		case *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		case *pgproto3.ErrorResponse:
			failure := pgconn.ErrorResponseToPgError(m)
			c.untilReady(ctx) // if this fails, so does the next command
			return nil, failure
		default:
			return msg, nil
		}
	}
}

// untilReady reads up to the point where the next command may be sent, and
// gives the first error that the server reports on the way.
func (c *ReplicationConn) untilReady(ctx context.Context) error {
	var failure error
	for {
		msg, err := c.pc.ReceiveMessage(ctx)
		if err != nil {
			return cmp.Or(failure, err)
		}
		switch m := msg.(type) {
		case *pgproto3.ReadyForQuery:
			return failure
		case *pgproto3.NoticeResponse:
			c.notice(m)
		case *pgproto3.ErrorResponse:
			failure = cmp.Or[error](failure, pgconn.ErrorResponseToPgError(m))
		}
	}
}

func (c *ReplicationConn) notice(m *pgproto3.NoticeResponse) {
	if len(c.notices) < maxNotices {
		c.notices = append(c.notices, m.Severity+": "+m.Message)
	}
}

// resultSet reads rows in text form up to the end of their statement.
func (c *ReplicationConn) resultSet(ctx context.Context) ([][]string, error) {
	var rows [][]string
	for {
		msg, err := c.next(ctx)
		if err != nil {
			return nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.RowDescription:
		case *pgproto3.DataRow:
			rows = append(rows, texts([][][]byte{m.Values})[0])
		case *pgproto3.CommandComplete:
			return rows, nil
		default:
			return nil, unexpected(msg)
		}
	}
}

func unexpected(msg pgproto3.BackendMessage) error {
	return fmt.Errorf("the server sent an unexpected message of type %T", msg)
}
