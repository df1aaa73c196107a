package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
)

type verifyFlags struct {
	deep, restore bool
	state         string
}

func (a *app) verifyCmd() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify [BACKUP...]",
		Short: "Prove that backups can be restored",
		Long: `Verifies the backups named, or all. Quick: every object that a backup needs is
there with its size, its manifest is whole, and the archived WAL leads without a
hole from its start to its stop and on to the present. With --deep every pack and
every segment is read too: each frame is decoded and compared with its digests,
page checksums, page maps and the WAL's records are checked. What an interrupted
deep verification has found good is not read again. With --restore the newest
backup, or those named, is restored into a scratch directory and a server started
there, as section verify of the configuration says.

The result is kept in the repository; pgtender info shows it.

JSON keys: depth, ok, backups (id, ok, faults), faults, packs, bytes,
resumed_packs, wal_segments; with --restore drills (backup, ok, faults, directory,
consistent_at, restore_ns, recovery_ns, checks (sql, ok, got)).

Exit status:
  0  all is well
  1  a fault, each of them named, or it could not be judged
  2  wrong usage or configuration`,
		Example: "  pgtender verify\n  pgtender verify --deep\n  pgtender verify --restore",
		RunE: func(cmd *cobra.Command, args []string) error {
			ids := make([]repo.BackupID, 0, len(args))
			for _, arg := range args {
				id, err := backupID(arg)
				if err != nil {
					return err
				}
				ids = append(ids, id)
			}
			if f.deep && f.restore {
				return usagef("--deep and --restore exclude each other")
			}
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			if f.restore {
				return a.drill(cmd.Context(), n, ids)
			}
			return a.verify(cmd.Context(), n, ids, f)
		},
		Args: cobra.ArbitraryArgs,
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.deep, "deep", false, "read and check every byte")
	fl.BoolVar(&f.restore, "restore", false, "restore into a scratch directory and start a server there")
	fl.StringVar(&f.state, "state", "", "`FILE` that notes how far a deep verification has come (default: in the user's cache directory)")
	return cmd
}

func (a *app) verify(ctx context.Context, n *node, ids []repo.BackupID, f verifyFlags) error {
	r, err := n.repository(ctx)
	if err != nil {
		return err
	}
	m := a.newMeter(n.log)
	defer m.end()
	o := backup.VerifyOptions{
		Repo: r, Backups: ids, Deep: f.deep, Lineage: archive.LineageOptions{Leader: n.leaderHistory()}, Workers: int(n.Verify.Workers), By: whoami(), Log: n.log,
		Progress: func(done, total int64) { m.report("verify", done, total) },
	}
	if f.deep {
		o.StateFile = n.stateFile(f.state, r.Cluster())
	}
	v, err := backup.Verify(ctx, o)
	m.end()
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(v)
	} else {
		printVerification(a.out, v)
	}
	if err == nil && !v.OK {
		err = exitError{code: exitFailed}
	}
	return err
}

// stateFile gives the file for a verification's state. Without one all is read
// anew, which is no reason to fail.
func (n *node) stateFile(given string, c repo.ClusterID) string {
	if given != "" {
		return given
	}
	dir := lookup(n.environ, "XDG_CACHE_HOME")
	if dir == "" {
		dir = filepath.Join(lookup(n.environ, "HOME"), ".cache")
	}
	dir = filepath.Join(dir, "pgtender")
	err := errors.New("neither HOME nor XDG_CACHE_HOME is set")
	if filepath.IsAbs(dir) {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		n.log.Warn("if this verification is interrupted it begins anew: no directory for its state", "error", err)
		return ""
	}
	return filepath.Join(dir, "verify-"+strings.ReplaceAll(c.String(), "/", "-")+".state")
}

func printVerification(w io.Writer, v backup.Verification) {
	for _, b := range v.Backups {
		if b.OK {
			fmt.Fprintf(w, "ok     backup %s\n", b.ID)
			continue
		}
		for _, fault := range b.Faults {
			fmt.Fprintf(w, "error  backup %s: %s\n", b.ID, fault)
		}
	}
	for _, fault := range v.Faults {
		fmt.Fprintf(w, "error  %s\n", fault)
	}
	fmt.Fprintf(w, "%s: %d backups, %d packs", v.Depth, len(v.Backups), v.Packs)
	if v.Depth == backup.DepthDeep {
		fmt.Fprintf(w, ", %s read", size(v.Bytes))
		if v.Skipped > 0 {
			fmt.Fprintf(w, " (%d packs were found good before)", v.Skipped)
		}
	}
	fmt.Fprintf(w, ", %d WAL segments\n", v.WAL)
}

// firstLineOf gives the first line of a text.
func firstLineOf(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
