package pgtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// Connect opens a session in the database postgres, closed when the test ends.
func (c *Cluster) Connect(t testing.TB) *server.Conn {
	t.Helper()
	conn, err := server.Connect(t.Context(), c.Options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// ConnectReplication opens a walsender session, closed when the test ends.
func (c *Cluster) ConnectReplication(t testing.TB) *server.ReplicationConn {
	t.Helper()
	conn, err := server.ConnectReplication(t.Context(), c.Options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// Exec runs statements in the database postgres, each in its own transaction.
func (c *Cluster) Exec(t testing.TB, statements ...string) {
	t.Helper()
	c.ExecIn(t, "postgres", statements...)
}

// ExecIn is Exec in another database.
func (c *Cluster) ExecIn(t testing.TB, database string, statements ...string) {
	t.Helper()
	err := c.in(t.Context(), database, func(conn *server.Conn) error {
		for _, s := range statements {
			if err := conn.Exec(t.Context(), s); err != nil {
				return fmt.Errorf("%w\nin: %s", err, s)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Query runs a statement in the database postgres and gives its rows as text,
// NULL as "".
func (c *Cluster) Query(t testing.TB, sql string) [][]string {
	t.Helper()
	return c.QueryIn(t, "postgres", sql)
}

// QueryIn is Query in another database.
func (c *Cluster) QueryIn(t testing.TB, database, sql string) [][]string {
	t.Helper()
	var rows [][]string
	err := c.in(t.Context(), database, func(conn *server.Conn) (err error) {
		rows, err = conn.Query(t.Context(), sql)
		return err
	})
	if err != nil {
		t.Fatalf("%v\nin: %s", err, sql)
	}
	return rows
}

// Value runs a statement that gives one row of one column.
func (c *Cluster) Value(t testing.TB, sql string) string {
	t.Helper()
	rows := c.Query(t, sql)
	if len(rows) != 1 || len(rows[0]) != 1 {
		t.Fatalf("want one value, got %q\nfrom: %s", rows, sql)
	}
	return rows[0][0]
}

// in runs use with a session in the database. Names are looked up in public,
// as an application's would be.
func (c *Cluster) in(ctx context.Context, database string, use func(*server.Conn) error) error {
	o := c.Options()
	o.Database = database
	conn, err := server.Connect(ctx, o)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Exec(ctx, `SET search_path = "$user", public`); err != nil {
		return err
	}
	return use(conn)
}

// WaitFor waits until a statement that gives one value gives want.
func (c *Cluster) WaitFor(t testing.TB, sql, want string) {
	t.Helper()
	var got string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = c.Value(t, sql); got == want {
			return
		}
	}
	t.Fatalf("want %q, still got %q\nfrom: %s", want, got, sql)
}

// CatchUp waits until a standby has replayed what the primary has written by now.
func (c *Cluster) CatchUp(t testing.TB, primary *Cluster) {
	t.Helper()
	want, err := pg.ParseLSN(primary.Value(t, "SELECT pg_current_wal_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t).WaitReplay(t.Context(), want, server.WaitOptions{Poll: 20 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
}

// Promote makes a primary of a standby and waits until it is one.
func (c *Cluster) Promote(t testing.TB) {
	t.Helper()
	if got := c.Value(t, fmt.Sprintf("SELECT pg_promote(true, %d)", int(patience.Seconds()))); got != "t" {
		t.Fatalf("the server in %s was not promoted", c.DataDir)
	}
}
