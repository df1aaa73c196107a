package server

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// closeTimeout bounds what is still said to a server after the caller's
// context has ended.
const closeTimeout = 5 * time.Second

// session is one connection of either kind.
type session struct {
	pc      *pgconn.PgConn
	version Version
	target  string
	log     *slog.Logger
}

// Conn is an ordinary session. It is safe for concurrent use: one statement
// runs at a time, the others wait for their turn. A statement whose context
// ends closes the connection.
type Conn struct {
	session
	turn chan struct{} // holds one token while pc is in use
}

// Connect opens an ordinary session. See [IsUnavailable] and [IsDenied].
func Connect(ctx context.Context, o Options) (*Conn, error) {
	s, err := connect(ctx, o, false)
	if err != nil {
		return nil, err
	}
	c := &Conn{session: s, turn: make(chan struct{}, 1)}
	// idle_session_timeout (14+) would end a backup's session: it is idle while
	// files are copied. It cannot be a startup parameter, 13 has none.
	row, err := c.row(ctx, 2, `SELECT current_setting('server_version_num'),
		(SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout')`)
	if err == nil {
		c.version, err = parseVersion(row[0])
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to %s: %w", s.target, err)
	}
	return c, nil
}

func connect(ctx context.Context, o Options, replication bool) (session, error) {
	s := session{target: o.String(), log: cmp.Or(o.Log, slog.New(slog.DiscardHandler))}
	cfg, err := o.config(replication)
	if err != nil {
		return s, fmt.Errorf("connect to %s: %w", s.target, err)
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		s.log.Debug("notice from the server", "severity", n.Severity, "message", n.Message)
	}
	limited, cancel := context.WithTimeout(ctx, cmp.Or(o.ConnectTimeout, defaultConnectTimeout))
	defer cancel()
	if s.pc, err = pgconn.ConnectConfig(limited, cfg); err != nil {
		return s, explain(ctx, "connect to "+s.target, err)
	}
	return s, nil
}

// Version gives the server's version.
func (s *session) Version() Version { return s.version }

// Close ends the session. It is safe to call more than once, but not while
// another goroutine uses the session.
func (s *session) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	s.pc.Close(ctx)
}

// Close ends the session, after the statement that runs, if any. It is safe to
// call more than once and concurrently.
func (c *Conn) Close() {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.session.Close()
}

// Ping reports whether the session is alive.
func (c *Conn) Ping(ctx context.Context) error {
	_, err := c.Query(ctx, "SELECT 1")
	return err
}

// WaitEnd waits until the server ends the session or the connection breaks, and
// gives the reason. When ctx ends it gives nil, and the session goes on. Statements
// wait for their turn meanwhile.
func (c *Conn) WaitEnd(ctx context.Context) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil // ctx has ended
	}
	defer unlock()
	for {
		err := c.pc.WaitForNotification(ctx)
		switch {
		case err == nil: // somebody else's notification
		case ctx.Err() != nil && !c.pc.IsClosed():
			return nil
		default:
			return fmt.Errorf("the session with %s has ended: %w", c.target, err)
		}
	}
}

// Query runs one statement and gives its rows in text form, NULL as "". The
// whole result is held in memory. Arguments $1... are sent as text.
func (c *Conn) Query(ctx context.Context, sql string, args ...string) ([][]string, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	values := make([][]byte, len(args))
	for i, a := range args {
		values[i] = []byte(a)
	}
	res := c.pc.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	if res.Err != nil {
		return nil, explain(ctx, "run "+firstWords(sql), res.Err)
	}
	return texts(res.Rows), nil
}

// Exec runs a script of one or more statements and discards their results.
func (c *Conn) Exec(ctx context.Context, script string) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := c.pc.Exec(ctx, script).ReadAll(); err != nil {
		return explain(ctx, "run "+firstWords(script), err)
	}
	return nil
}

func (c *Conn) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case c.turn <- struct{}{}:
		return func() { <-c.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the connection: %w", context.Cause(ctx))
	}
}

// row runs a statement that must give one row of n columns.
func (c *Conn) row(ctx context.Context, n int, sql string, args ...string) ([]string, error) {
	rows, err := c.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return oneRow(rows, n, firstWords(sql))
}

func oneRow(rows [][]string, n int, what string) ([]string, error) {
	if len(rows) != 1 || len(rows[0]) < n {
		return nil, fmt.Errorf("run %s: want one row of %d columns, the server gave %d rows", what, n, len(rows))
	}
	return rows[0], nil
}

func texts(rows [][][]byte) [][]string {
	out := make([][]string, len(rows))
	for i, row := range rows {
		out[i] = make([]string, len(row))
		for j, v := range row {
			out[i][j] = string(v)
		}
	}
	return out
}

// firstWords names a statement in an error: its beginning, on one line. A
// script may hold a secret (ALTER ROLE ... PASSWORD), so no more than that.
func firstWords(sql string) string {
	words := strings.Fields(sql)
	return strings.TrimRight(strings.Join(words[:min(2, len(words))], " "), ",")
}

// quoteLiteral quotes a string for the replication grammar, which has no
// escapes but the doubled quote (repl_scanner.l).
func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
