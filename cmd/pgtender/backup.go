package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/internal/config"
	"github.com/pgtender/pgtender/internal/finding"
)

type backupFlags struct {
	kind, member, label string
	elect, dryRun       bool
	allowDamaged        bool
	maxRate             string
	workers             int
}

func (a *app) backupCmd() *cobra.Command {
	var f backupFlags
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Take a base backup of this member, if it is the chosen source",
		Long: `Takes a base backup of the server on this node into the repository. The cluster's
topology decides which member is the source: a synchronous standby before other
replicas before the leader. On another member the command refuses and names the
source; with --elect it exits 0 there, so that one timer can run on every node.
Where no member can be the source, it fails on all of them.

It is incremental where an earlier backup can be its parent: then only pages that
changed since are read and stored, and it is a complete image all the same. Where
it cannot, a full one is taken and the reason told, as far as backup.full_fallback
allows.

With --kind synthetic the newest backup is made anew as a full one, within the
repository and on any member: no database is read, and older backups can expire.
backup.synthetic_after and backup.synthetic_share do so after a backup.

A backup counts only when the WAL it needs is proved to be in the archive. If it
does not arrive in time the finished copy is kept, and the next run commits it.

Without patroni.yml and DCS (--cluster and data_dir) the local server is backed
up, whichever it is; a standby needs a DCS to find its primary.

JSON keys: backup (as in info), plan, earlier, read_bytes, checkpoint_ns, copy_ns,
wal_ns, wall_ns, synthetic; with --kind synthetic backup; with --dry-run source, is_source, reason, plan.`,
		Example: "  pgtender backup\n  pgtender backup --elect --max-rate 100MB\n  pgtender backup --dry-run",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			if err := n.applyBackupFlags(f); err != nil {
				return err
			}
			return a.backup(cmd.Context(), n, f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.kind, "kind", "auto", "auto, full, incremental (or fail), or synthetic")
	fl.BoolVar(&f.elect, "elect", false, "exit 0 where another member is the source")
	fl.StringVar(&f.member, "member", "", "take `NAME` for the source, in place of the choice")
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would be done, and do nothing")
	fl.StringVar(&f.maxRate, "max-rate", "", "read at most so many `BYTES` per second, such as 100MB")
	fl.IntVar(&f.workers, "workers", 0, "parallel readers `N`")
	fl.BoolVar(&f.allowDamaged, "allow-damaged-pages", false, "take the backup in spite of damaged pages, and name them in it")
	fl.StringVar(&f.label, "label", "", "`TEXT` for backup_label")
	return cmd
}

// kindSynthetic is a value of --kind that asks for no backup of the server.
const kindSynthetic = "synthetic"

// requests are the other values of --kind.
var requests = map[string]backup.Request{"auto": backup.Auto, "full": backup.FullOnly, "incremental": backup.IncrementalOnly}

// noFallback says why a full backup must not stand in for an incremental one at
// the moment, "" if it may.
func noFallback(c config.Backup, now time.Time) string {
	switch {
	case c.FullFallback == "never":
		return "backup.full_fallback is never"
	case c.FullFallback == "window" && !c.FullWindow.Contains(now):
		return fmt.Sprintf("it is %s, outside of backup.full_window %s", now.Format("15:04"), c.FullWindow)
	}
	return ""
}

func (n *node) applyBackupFlags(f backupFlags) error {
	if _, ok := requests[f.kind]; !ok && f.kind != kindSynthetic {
		return usagef("--kind %q is none of auto, full, incremental, synthetic", f.kind)
	}
	if f.kind == kindSynthetic && f.dryRun {
		return usagef("--dry-run: a synthetic backup has no choice to show")
	}
	if f.maxRate != "" {
		var rate config.Bytes
		if err := rate.UnmarshalText([]byte(f.maxRate)); err != nil {
			return usagef("--max-rate: %w", err)
		}
		n.Backup.MaxRate = rate
	}
	if f.workers < 0 {
		return usagef("--workers: %d is negative", f.workers)
	}
	if f.workers > 0 {
		n.Backup.Workers = config.Count(f.workers)
	}
	return nil
}

func (a *app) backup(ctx context.Context, n *node, f backupFlags) error {
	if _, err := n.dataDir(); err != nil {
		return err
	}
	d, err := n.source(ctx, f.member)
	if err != nil {
		return err
	}
	switch {
	case d.isSource || f.dryRun:
	case f.kind == kindSynthetic && !f.elect:
	case f.elect && d.Source != "": // where nobody is, all timers would be content with no backup
		n.log.DebugContext(ctx, "nothing to do: this member is not the source", "member", n.member(), "source", d.Source, "reason", d.Reason)
		return nil
	default:
		return d.refusal(n.member())
	}
	if f.kind == kindSynthetic {
		return a.synthesize(ctx, n, d)
	}
	r, err := n.repositoryToWrite(ctx)
	if err != nil {
		return err
	}
	opts, err := n.backupOptions(r, f, d)
	if err != nil {
		return err
	}
	if f.dryRun {
		return a.dryRun(ctx, n, opts, d)
	}
	if !d.alone {
		held, release, err := n.holdBackup(ctx)
		if err != nil {
			return err
		}
		defer release()
		ctx, opts.Leased = held, true
	}
	if err := opts.Archive.CheckOwner(ctx); err != nil {
		return err
	}
	m := a.newMeter(n.log)
	defer m.end()
	opts.Progress = func(p backup.Progress) { m.report(string(p.Phase), p.Done, p.Total) }
	opts.Workers = cmp.Or(opts.Workers, backup.DefaultWorkers()) // not more for those to spare
	undo := spareProcessors()
	taken, err := backup.Take(ctx, opts)
	undo()
	m.end()
	switch {
	case errors.Is(err, dcs.ErrLeaseLost):
		return finding.WithHint(err, "another backup may have begun meanwhile (pgtender info); if none has, take it again when the DCS answers")
	case err != nil:
		return err
	}
	n.showAlarms(ctx, r)
	result := backupResult{Result: taken}
	result.Synthetic, err = n.synthesizeIfDue(ctx, r, &taken.Backup, opts.Progress)
	m.end()
	if a.json {
		return errors.Join(a.printJSON(result), err) // the backup is there, whatever came of the other
	}
	printBackup(a.out, taken)
	if result.Synthetic != nil {
		a.printSynthetic(*result.Synthetic)
	}
	return err
}

// source is the decision for this node.
type source struct {
	ha.Decision
	isSource bool
	alone    bool // no DCS is configured: nobody else is known
}

// source decides whether this node is the source. Without a DCS it is.
func (n *node) source(ctx context.Context, member string) (source, error) {
	if _, err := n.dcsSettings(); errors.Is(err, errNoDCS) {
		if member != "" {
			return source{}, usagef("--member %s: no DCS is configured, so there are no members to choose from", member)
		}
		d := ha.Decision{Reason: "no DCS is configured, so the local server is backed up, whichever it is"}
		return source{Decision: d, isSource: true, alone: true}, nil
	}
	v, err := n.view(ctx, member)
	if err != nil {
		return source{}, err
	}
	d := ha.Decide(v)
	return source{Decision: d, isSource: d.IsSource(v.Self)}, nil
}

func (s source) refusal(self string) error {
	switch {
	case s.Source == "":
		return finding.WithHint(fmt.Errorf("no member can be the source of a backup: %s", s.Reason), "pgtender topology shows every member with the reason against it")
	case self == "":
		return finding.WithHint(fmt.Errorf("this node is no member of the cluster; the source is %s: %s", s.Source, s.Reason), "run the backup there, or set dcs.member if this node is a member")
	}
	return finding.WithHint(fmt.Errorf("%s is not the source of a backup: %s", self, s.Why(self)),
		"run it on %s, or everywhere with --elect; --member %s takes it from here all the same", s.Source, self)
}

func (n *node) backupOptions(r *repo.Repo, f backupFlags, d source) (backup.Options, error) {
	dir, err := n.dataDir()
	if err != nil {
		return backup.Options{}, err
	}
	push, err := n.pushOptions(r, 0)
	if err != nil {
		return backup.Options{}, err
	}
	opts := backup.Options{
		Repo: r, DataDir: dir, Source: n.connectLocal, Member: n.member(), ToolVersion: toolVersion(),
		Label: f.label, Workers: int(n.Backup.Workers), MaxRate: int64(n.Backup.MaxRate), Fast: n.Backup.Checkpoint != "spread",
		Kind: requests[f.kind], NoFallback: noFallback(n.Backup, time.Now()),
		AllowDamagedPages: f.allowDamaged, ArchiveTimeout: time.Duration(n.Backup.ArchiveTimeout), Archive: push, Log: n.log,
	}
	if !d.alone {
		opts.Primary = n.connectPrimary
	}
	return opts, nil
}

func (n *node) holdBackup(ctx context.Context) (context.Context, func(), error) {
	store, err := n.dcs(ctx)
	if err != nil {
		return nil, nil, err
	}
	prefix, err := n.prefix()
	if err != nil {
		return nil, nil, err
	}
	holder := fmt.Sprintf("%s pid %d since %s", n.member(), os.Getpid(), time.Now().UTC().Format(time.RFC3339))
	return ha.HoldBackup(ctx, store, prefix, holder, n.log)
}

// dryRun says what the backup would do. It is refused where the backup would be.
func (a *app) dryRun(ctx context.Context, n *node, opts backup.Options, d source) error {
	owner, err := n.ownerDCS()
	if err != nil {
		return err
	}
	facts, _, err := archive.ReadOwner(ctx, opts.Repo, owner)
	if err == nil {
		err = archive.DecideOwner(facts).Err()
	}
	if err != nil {
		return err
	}
	result := backupPlan{Source: d.Source, IsSource: d.isSource, Reason: d.Reason}
	if d.isSource {
		plan, err := backup.Preview(ctx, opts)
		if err != nil {
			return err
		}
		result.Plan = &plan
	}
	if a.json {
		return a.printJSON(result)
	}
	if !d.isSource {
		fmt.Fprintf(a.out, "nothing would be done here: %s\n", d.Why(opts.Member))
		return nil
	}
	fmt.Fprintf(a.out, "source: %s: %s\nbackup: %s\n", cmp.Or(d.Source, opts.Member, "the local server"), d.Reason, result.Plan.Why)
	for _, r := range result.Plan.Rejected {
		fmt.Fprintf(a.out, "not the parent: %s %s\n", r.Backup, r.Why)
	}
	printFindings(a.out, result.Plan.Findings)
	return nil
}

// backupPlan is the result of --dry-run; its keys are part of the interface.
type backupPlan struct {
	Source   string       `json:"source"`
	IsSource bool         `json:"is_source"`
	Reason   string       `json:"reason"`
	Plan     *backup.Plan `json:"plan"`
}

func printBackup(w io.Writer, r backup.Result) {
	b := r.Backup
	rate := int64(0)
	if r.Copy > 0 {
		rate = int64(float64(r.Read) / r.Copy.Seconds())
	}
	fmt.Fprintf(w, "backup %s is complete: %s to %s on timeline %s, from %s (%s)\n%s\n", b.ID, b.Start.LSN, b.Stop.LSN, b.Stop.Timeline, orDash(b.SourceMember), b.SourceRole, r.Plan.Why)
	table(w, [][]string{
		{"", "read", size(r.Read), fmt.Sprintf("%d files", b.Files)},
		{"", "stored", size(b.StoredBytes), fmt.Sprintf("%d packs", b.Packs)},
		{"", "checkpoint", span(r.Checkpoint), "waiting for it and for its replay"},
		{"", "copy", span(r.Copy), size(rate) + "/s"},
		{"", "WAL", span(r.WAL), "waiting for it to be archived"},
		{"", "in all", span(r.Wall), ""},
	})
	for _, id := range r.Earlier {
		fmt.Fprintf(w, "backup %s of an earlier run is complete too: its WAL has arrived\n", id)
	}
	if b.DamagedPages > 0 {
		fmt.Fprintf(w, "warning: %d pages were damaged on the source and are stored as they were; pgtender info --json names them\n", b.DamagedPages)
	}
}

// showAlarms logs what is wrong with the archive, until it is acknowledged.
func (n *node) showAlarms(ctx context.Context, r *repo.Repo) {
	alarms, err := archive.Alarms(ctx, r)
	if err != nil {
		n.log.WarnContext(ctx, "the archive's alarms cannot be read", "error", err)
		return
	}
	for _, alarm := range alarms {
		if !alarm.Acknowledged {
			n.log.WarnContext(ctx, "alarm", "kind", alarm.Kind, "subject", alarm.Subject, "text", alarm.Text)
		}
	}
}
