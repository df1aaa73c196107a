package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/catchup"
)

type restoreFlags struct {
	target      targetFlags
	dir         string
	backup      string
	tablespaces []string
	waldir      string
	plan        bool
}

func (a *app) restoreCmd() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore --target-dir DIR",
		Short: "Restore a backup into an empty directory, to any point in time",
		Long: `Restores the cluster into an empty directory and writes the recovery settings, so
that a server started there recovers to the target: the end of the archive unless
a flag says otherwise. That the archive leads there is proved before anything is
written. What is killed in the middle goes on with the same command, and until it
is complete no server can start in the directory.

It works on a host without patroni.yml and without a DCS, with --repository and
--cluster alone. Run it as the user that PostgreSQL runs as.

JSON keys: plan (purpose, target, directory, backup, places, wal_directory,
timeline, choice, rungs, resume, replace, candidates), result (backup, directory,
rung, files, kept_files, bytes, resumed_files, wal_segments, saved, duration_ns; null with
--plan).`,
		Example: `  pgtender restore --target-dir /srv/copy --repository s3://bucket/prefix --cluster main
  pgtender restore --target-dir /srv/copy --target-time '2026-08-01 03:00:00+02:00' --plan`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			return a.restore(cmd.Context(), n, f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.dir, "target-dir", "", "the `DIRECTORY` to restore into: empty, or an interrupted restore")
	fl.StringVar(&f.backup, "backup", "", "restore the backup `ID` instead of the newest that leads to the target")
	f.target.declare(fl)
	fl.StringVar(&f.target.action, "target-action", "", "`ACTION` of the server at the target: pause (default), promote or shutdown")
	fl.StringArrayVar(&f.tablespaces, "tablespace", nil, "put the tablespace at OLD into NEW, as `OLD=NEW`; may be repeated")
	fl.StringVar(&f.waldir, "waldir", "", "make pg_wal a link to `DIRECTORY`")
	fl.BoolVar(&f.plan, "plan", false, "say what would be done and why, and do nothing")
	return cmd
}

func (a *app) restore(ctx context.Context, n *node, f restoreFlags) error {
	gather, err := f.options()
	if err != nil {
		return err
	}
	if gather.Repo, err = n.repositoryToRestore(ctx); err != nil {
		return err
	}
	gather.Log = n.log
	plan, err := makePlan(ctx, gather)
	if err != nil {
		return err
	}
	if f.plan {
		return a.printPlan(restoreResult{Plan: plan})
	}
	result, err := a.carryOut(ctx, n, gather.Repo, plan)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(restoreResult{Plan: plan, Result: &result})
	}
	printRestored(a.out, plan, result)
	return nil
}

// makePlan gathers the facts and decides what becomes of the directory.
func makePlan(ctx context.Context, o catchup.GatherOptions) (catchup.Plan, error) {
	facts, err := catchup.Gather(ctx, o)
	if err != nil {
		return catchup.Plan{}, err
	}
	return catchup.Decide(facts)
}

// backupFlag reads --backup, 0 if it is not given.
func backupFlag(s string) (repo.BackupID, error) {
	if s == "" {
		return 0, nil
	}
	id, err := repo.ParseBackupID(s)
	if err != nil {
		return 0, usagef("--backup: %w", err)
	}
	return id, nil
}

// options reads the flags; what is missing is where to look.
func (f *restoreFlags) options() (catchup.GatherOptions, error) {
	o := catchup.GatherOptions{Purpose: catchup.Restore, Dir: f.dir, WALDir: f.waldir, NoScan: f.target.noScan}
	if f.dir == "" {
		return o, usagef("--target-dir is required")
	}
	var err error
	if o.Target, err = f.target.target(); err != nil {
		return o, err
	}
	if o.Backup, err = backupFlag(f.backup); err != nil {
		return o, err
	}
	o.Tablespaces, err = tablespaceMap(f.tablespaces)
	return o, err
}

func tablespaceMap(flags []string) (map[string]string, error) {
	m := map[string]string{}
	for _, flag := range flags {
		from, to, ok := strings.Cut(flag, "=")
		if !ok || from == "" || to == "" {
			return nil, usagef("--tablespace %q is not OLD=NEW", flag)
		}
		m[from] = to
	}
	return m, nil
}

// carryOut runs a plan whose server fetches WAL with this program.
func (a *app) carryOut(ctx context.Context, n *node, r *repo.Repo, plan catchup.Plan) (catchup.Result, error) {
	command, err := n.restoreCommand(a.configRead, r.Cluster(), plan)
	if err != nil {
		return catchup.Result{}, err
	}
	m := a.newMeter(n.log)
	defer m.end()
	lessGarbage()
	return catchup.Run(ctx, plan, catchup.RunOptions{
		Repo: r, RestoreCommand: command, Workers: int(n.Restore.Workers), Member: n.member(),
		Progress: func(p catchup.Progress) { m.report(p.Phase, p.Done, p.Total) }, Log: n.log,
	})
}

// restoreCommand is this program as the restored server is to call it. It names
// repository, cluster and timeline, so that the server needs neither a DCS nor
// to know which history was chosen.
func (n *node) restoreCommand(configFile string, id repo.ClusterID, plan catchup.Plan) (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program for restore_command: %w", err)
	}
	words := []string{program}
	if configFile != "" {
		words = append(words, "-c", configFile)
	}
	words = append(words, "--repository", n.Repository, "--cluster", clusterFlag(id), "archive-get", "--timeline", plan.Timeline.String())
	if plan.Purpose != catchup.Replica {
		words = append(words, "--streamed") // it ends where WAL ends
	}
	for i, word := range words {
		words[i] = shellQuote(word)
	}
	for _, kv := range n.environ {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "PGTENDER_") && name != "PGTENDER_CONFIG" {
			n.log.Warn("the restored server needs this environment variable too, for its restore_command", "variable", name)
		}
	}
	return strings.Join(words, " ") + " %f %p", nil
}

// shellQuote makes one word of s for the shell that runs restore_command, in
// which PostgreSQL first replaces what begins with a per cent sign.
func shellQuote(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-:=%,@+", r)
	}
	if s != "" && strings.TrimLeftFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// restoreResult is the result of the command; its keys are part of the
// interface.
type restoreResult struct {
	Plan   catchup.Plan    `json:"plan"`
	Result *catchup.Result `json:"result"`
}

func (a *app) printPlan(r restoreResult) error {
	if a.json {
		return a.printJSON(r)
	}
	p := r.Plan
	if p.Snapshot {
		fmt.Fprintf(a.out, "a server runs there (process %d): this is what would be done if it stopped now\n", p.Dir.PID)
	}
	fmt.Fprintf(a.out, "into %s, to %s, on timeline %s (%s)\n\n", p.Dir.Path, p.Target, p.Timeline, p.Lineage.Source)
	rows := [][]string{{"BACKUP", "", "WHY"}}
	for _, v := range p.Candidates {
		mark := "no"
		if v.Usable {
			mark = "yes"
		}
		rows = append(rows, []string{v.Backup.String(), mark, v.Reason})
	}
	table(a.out, rows)
	fmt.Fprintln(a.out)
	if p.Local != nil {
		printLocal(a.out, p.Local)
	}
	printRungs(a.out, p)
	for _, place := range p.Places {
		fmt.Fprintf(a.out, "also written: %s\n", place.Path)
	}
	return nil
}

// printRungs prints the ladder, and below each way what it would cost with the
// other backups.
func printRungs(w io.Writer, p catchup.Plan) {
	rows := [][]string{{"", "WAY", "BACKUP", "FETCH", "REQUESTS", "WRITE", "REPLAY", "SECONDS", "WHY"}}
	add := func(mark, name string, r catchup.Rung) {
		backup := "-"
		if !r.Backup.IsZero() {
			backup = r.Backup.String()
		}
		rows = append(rows, []string{mark, name, backup, size(r.Fetch), fmt.Sprint(r.Requests), size(r.Write), size(r.Replay), fmt.Sprint(r.Seconds), r.Reason})
	}
	for _, rung := range p.Rungs {
		mark := " "
		if rung.Name == p.Choice {
			mark = "*"
		}
		add(mark, string(rung.Name), rung)
		for _, v := range p.Candidates {
			for _, other := range v.Rungs {
				if other.Name == rung.Name && other.Backup != rung.Backup {
					add(" ", "  or with", other)
				}
			}
		}
	}
	table(w, rows)
}

// printLocal tells of old data.
func printLocal(w io.Writer, l *catchup.LocalFacts) {
	if l.Unknown != "" {
		fmt.Fprintf(w, "old data: %s\n\n", l.Unknown)
		return
	}
	fmt.Fprintf(w, "old data: %s on timeline %s, redo %s, goes to %s", l.StateAs, l.Timeline, l.Redo, l.End)
	if l.Diverged {
		fmt.Fprintf(w, ", has left the leader's history at %s", l.Fork)
	}
	fmt.Fprintln(w)
	if l.Lost != nil {
		fmt.Fprintf(w, "only it has: %s\n", l.Lost)
	}
	fmt.Fprintln(w)
}

func printRestored(w io.Writer, p catchup.Plan, r catchup.Result) {
	fmt.Fprintf(w, "backup %s is restored into %s: %s: %d files, %s, %d WAL segments, in %s\n", r.Backup, r.Dir, r.Rung, r.Files, size(r.Bytes), r.Segments, span(r.Duration))
	if r.Resumed > 0 {
		fmt.Fprintf(w, "%d files were there already from an interrupted run\n", r.Resumed)
	}
	for _, saved := range r.Saved {
		fmt.Fprintf(w, "kept aside, since it was never archived: %s\n", saved)
	}
	fmt.Fprintf(w, "a server started there recovers to %s on timeline %s\n", p.Target, p.Timeline)
	fmt.Fprintln(w, "if it is a copy, start it with archive_mode = off: its WAL does not belong into the cluster's archive")
}
