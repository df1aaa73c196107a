package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/patroni"
)

func (a *app) checkCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Look for everything that would keep backup, archiving or rebuilding from working",
		Long: `Tries out what the other commands need on this node: the DCS and the cluster in
it, what patroni.yml makes Patroni do, the local server and the primary, the
repository (a small object is written, read and removed) and the archived WAL.
Run it on every member: each leaves its mark in the repository, by which the
others know that all of them share it, and with which versions.

Findings are ok, info, warning or error; any error makes the exit status 1.

JSON keys: ok, findings (severity, text, hint).`,
		Example: "  pgtender check\n  pgtender check --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			findings, err := n.check(cmd.Context())
			if err != nil {
				return err
			}
			failed := finding.Worst(findings) >= finding.Error
			if a.json {
				err = a.printJSON(checkResult{OK: !failed, Findings: findings})
			} else {
				printFindings(a.out, findings)
				fmt.Fprintln(a.out, summary(findings))
			}
			if err == nil && failed {
				err = exitError{code: exitFailed}
			}
			return err
		},
	}
}

// checkResult is the command's result; its keys are part of the interface.
type checkResult struct {
	OK       bool              `json:"ok"`
	Findings []finding.Finding `json:"findings"`
}

func summary(findings []finding.Finding) string {
	count := map[finding.Severity]int{}
	for _, f := range findings {
		count[f.Severity]++
	}
	return fmt.Sprintf("%d errors, %d warnings", count[finding.Error], count[finding.Warning])
}

// checkup gathers findings. Each part goes on where another could not.
type checkup struct {
	*node
	found    []finding.Finding
	cluster  *patroni.Cluster      // nil: not known
	local    string                // version of the local server, "" if not known
	archiver *server.ArchiverStats // of the primary
	replicas []holding             // as they were asked
}

func (c *checkup) add(s finding.Severity, hint, format string, args ...any) {
	c.found = append(c.found, finding.Finding{Severity: s, Text: fmt.Sprintf(format, args...), Hint: hint})
}

// fail adds an error with its own hint, or else the one given.
func (c *checkup) fail(err error, doing, hint string) {
	if own := finding.Hint(err); own != "" {
		hint = own
	}
	c.add(finding.Error, hint, "%s: %v", doing, err)
}

// check makes every check. The error is that of a context that ended, or of a
// configuration with which nothing could be tried.
func (n *node) check(ctx context.Context) ([]finding.Finding, error) {
	c := &checkup{node: n}
	p, known, err := n.patroni()
	if err != nil {
		return nil, err
	}
	c.checkDCS(ctx)
	if known {
		var d patroni.Dynamic
		if c.cluster != nil {
			d = c.cluster.Dynamic
		}
		c.found = append(c.found, p.Findings(d)...)
	}
	c.checkLocal(ctx)
	c.checkPrimary(ctx)
	c.askReplicas(ctx)
	status := c.checkRepository(ctx)
	c.found = append(c.found, judgeHolding(c.replicas, status)...)
	return c.found, context.Cause(ctx)
}

// checkDCS reads the cluster, and tries whether the DCS lets us write.
func (c *checkup) checkDCS(ctx context.Context) {
	cluster, err := c.node.cluster(ctx)
	switch {
	case errors.Is(err, errNoDCS):
		c.add(finding.Warning, "set patroni, or dcs, in the configuration", "no DCS is configured: the command cannot know which member to back up, and nothing keeps two backups from running at once")
		return
	case errors.Is(err, patroni.ErrNoCluster):
		c.fail(err, "wrong scope or namespace, or Patroni has never run", "compare scope and namespace with those of a running member")
		return
	case err != nil:
		c.fail(err, "the DCS cannot be asked", "check the DCS section of patroni.yml, the network and the credentials from this host")
		return
	}
	c.cluster = &cluster
	c.add(finding.OK, "", "the DCS answers, and knows cluster %s with %d members", cluster.Scope, len(cluster.Members))
	c.found = append(c.found, judgeCluster(cluster, c.member())...)
	c.tryLease(ctx, cluster.Prefix())
}

// tryLease holds a lease of its own for a moment: what the backup will need.
func (c *checkup) tryLease(ctx context.Context, prefix string) {
	store, err := c.dcs(ctx)
	if err != nil {
		return // said already
	}
	_, release, err := dcs.Hold(ctx, store, dcs.HoldOptions{Key: prefix + "/pgtender/check", Value: c.member(), TTL: 15 * time.Second, Log: c.log})
	var held *dcs.HeldError
	if err != nil && !errors.As(err, &held) { // another check at this moment proves as much
		c.fail(err, "a lease cannot be taken in the DCS, which backups need", "give pgtender's DCS user the right to write below "+prefix+"/pgtender/")
		return
	}
	release()
}

// checkLocal looks at the data directory and at the server in it.
func (c *checkup) checkLocal(ctx context.Context) {
	dir, err := c.dataDir()
	if err != nil || c.foreign {
		return
	}
	_, control, err := pg.ReadControl(ctx, dir)
	if err != nil {
		c.fail(err, "the data directory cannot be read", "run pgtender as the user that owns it; while the member is being built there is nothing to check")
		return
	}
	if c.cluster != nil && c.cluster.SystemID != 0 && c.cluster.SystemID != control.SystemID {
		c.add(finding.Error, "scope, namespace or data directory belong to another cluster",
			"%s has system identifier %s, the cluster in the DCS has %s", dir, control.SystemID, c.cluster.SystemID)
	}
	conn, err := c.connectLocal(ctx)
	if err != nil {
		c.fail(err, "the local server cannot be asked", "check postgresql.authentication.superuser in patroni.yml and pg_hba.conf")
		return
	}
	defer conn.Close()
	info, err := conn.Info(ctx)
	if err != nil {
		c.fail(err, "the local server cannot be asked", "")
		return
	}
	c.local = info.Version.String()
	c.found = append(c.found, judgeServer(info, "the local server", c.configuredCommand())...)
}

// configuredCommand is the archive_command that Patroni is told to set, "" if
// that is not known.
func (c *checkup) configuredCommand() string {
	p, known, err := c.patroni()
	if err != nil || !known {
		return ""
	}
	var d patroni.Dynamic
	if c.cluster != nil {
		d = c.cluster.Dynamic
	}
	return p.Effective(d).Parameters["archive_command"]
}

// checkPrimary asks the primary, whose archiver is the one that counts.
func (c *checkup) checkPrimary(ctx context.Context) {
	if c.cluster == nil || c.cluster.Leader == "" {
		return
	}
	conn, err := c.connectPrimary(ctx)
	if err != nil {
		c.fail(err, "the leader's server cannot be asked, which a backup from a standby needs",
			"let postgresql.authentication.superuser of patroni.yml log in from this host: pg_hba.conf of "+c.cluster.Leader)
		return
	}
	defer conn.Close()
	info, err := conn.Info(ctx)
	if err != nil {
		c.fail(err, "the leader's server cannot be asked", "")
		return
	}
	if c.cluster.Leader != c.member() {
		c.found = append(c.found, judgeServer(info, "the leader "+c.cluster.Leader, c.configuredCommand())...)
	}
	stats, err := conn.ArchiverStats(ctx)
	if err != nil {
		c.fail(err, "the leader's archiver cannot be asked", "")
		return
	}
	c.archiver = &stats
	c.found = append(c.found, judgeArchiver(stats, c.cluster.Leader)...)
	slots, err := conn.PhysicalSlots(ctx)
	if err != nil {
		c.fail(err, "the leader's replication slots cannot be listed", "")
		return
	}
	c.found = append(c.found, judgeReceiver(slots, c.Receive.Slot, c.cluster.Dynamic, c.cluster.Leader)...)
}

// checkRepository tries the repository out and looks at what is in it, which it gives;
// nil: it cannot be seen.
func (c *checkup) checkRepository(ctx context.Context) *archive.Status {
	r, err := c.repositoryToWrite(ctx)
	if err != nil {
		c.fail(err, "the repository cannot be opened", "check the repository's URL and credentials")
		return nil
	}
	tried := backup.Findings(ctx, c.objects, r.Cluster())
	c.found = append(c.found, tried...)
	c.checkOwner(ctx, r)
	status, err := archive.ReadStatus(ctx, r, archive.LineageOptions{Leader: c.leaderHistory()})
	if err != nil {
		c.fail(err, "the archive cannot be listed", "")
		return nil
	}
	c.found = append(c.found, status.Findings()...)
	if c.archiver != nil {
		c.found = append(c.found, judgeArchived(*c.archiver, &status, c.cluster.Leader)...)
	}
	if finding.Worst(tried) < finding.Error {
		c.checkMembers(ctx, r)
	}
	return &status
}

// checkOwner judges whose the repository is, and claims nothing.
func (c *checkup) checkOwner(ctx context.Context, r *repo.Repo) {
	side, err := c.ownerDCS()
	if err != nil {
		c.fail(err, "the cluster's owner id cannot be read", "")
		return
	}
	facts, _, err := archive.ReadOwner(ctx, r, side)
	if err != nil {
		c.fail(err, "the repository's owner cannot be read", "")
		return
	}
	switch d := archive.DecideOwner(facts); {
	case d.Err() != nil:
		c.fail(d.Err(), "backups and WAL of this cluster are refused", "")
	case facts.DCSError != nil:
		c.add(finding.Warning, "", "%s", d.Reason)
	case d.Action == archive.OwnerGoOn:
		c.add(finding.OK, "", "%s", d.Reason)
	default:
		c.add(finding.Info, "the first archived segment or backup claims it", "%s", d.Reason)
	}
}
