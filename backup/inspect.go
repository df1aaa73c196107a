package backup

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// inspect finds out what [Decide] needs. It changes nothing. An error means
// that the source could not be asked; what is wrong with it is in the facts.
func inspect(ctx context.Context, o Options, conn *server.Conn) (Facts, error) {
	f := Facts{Cluster: o.Repo.Cluster(), DataDir: o.DataDir}
	var err error
	if f.Server, err = conn.Info(ctx); err != nil {
		return f, err
	}
	if _, f.Control, err = pg.ReadControl(ctx, o.DataDir); err != nil {
		return f, err
	}
	f.SameDataDir = pg.SameDir(o.DataDir, f.Server.DataDirectory)
	f.Unreadable = readable(o.DataDir)
	if f.Server.InRecovery && o.Primary != nil {
		f.PrimaryError = inspectPrimary(ctx, o, &f)
	}
	return f, ctx.Err()
}

func inspectPrimary(ctx context.Context, o Options, f *Facts) error {
	conn, err := o.Primary(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	info, err := conn.Info(ctx)
	if err != nil {
		return err
	}
	f.Primary = &info
	rows, err := conn.Query(ctx, `SELECT has_function_privilege('pg_switch_wal()', 'execute')`)
	if err != nil {
		return err
	}
	f.MaySwitch = rows[0][0] == "t"
	return nil
}

// readable tries the places whose rights differ where somebody but the owner
// reads a data directory: group access is given by initdb or not at all.
func readable(dir string) error {
	var errs []error
	for _, name := range []string{"global", "base", "pg_xact", "pg_wal", "pg_tblspc"} {
		_, err := os.ReadDir(filepath.Join(dir, name))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
