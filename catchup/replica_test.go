package catchup_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// createReplica is what Patroni's call amounts to.
func (l *lab) createReplica(t testing.TB, dir string, log ...string) error {
	t.Helper()
	return catchup.CreateReplica(t.Context(), catchup.ReplicaOptions{
		Gather: catchup.GatherOptions{Repo: l.repo, Dir: dir, Leader: l.asLeader(t)},
		Run:    catchup.RunOptions{Repo: l.repo, Log: testLog(t, log...)},
		Log:    testLog(t, log...),
	})
}

// follow starts a replica as Patroni does and waits until it has caught up.
func (l *lab) follow(t testing.TB, dir string, config map[string]string) *pgtest.Cluster {
	t.Helper()
	c := l.adopt(t, dir)
	settings := map[string]string{"primary_conninfo": l.primary.ConnString(), "recovery_target_timeline": "latest"}
	for k, v := range config {
		settings[k] = v
	}
	c.Configure(t, settings)
	c.Start(t)
	c.CatchUp(t, l.primary)
	l.primary.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "1")
	return c
}

func TestAReplicaStreamsFromTheLeader(t *testing.T) {
	t.Parallel()
	for _, source := range []string{"primary", "standby"} {
		t.Run("of a backup from a "+source, func(t *testing.T) {
			l := newLab(t, pgtest.Options{Checksums: true, Config: map[string]string{"wal_keep_size": "0"}})
			l.primary.EnableAMCheck(t)
			work := l.primary.Workload(1)
			work.Run(t, 10)
			if source == "standby" {
				s := pgtest.StandbyOf(t, l.primary, pgtest.Options{Config: map[string]string{"archive_mode": "off"}})
				s.CatchUp(t, l.primary)
				l.backup(t, s)
				s.Stop(t, pgtest.Fast)
			} else {
				l.backup(t, l.primary)
			}
			work.Run(t, 5)
			l.archived(t)
			work.Run(t, 5)
			dir := pgtest.Dir(t)
			if err := l.createReplica(t, dir); err != nil {
				t.Fatal(err)
			}
			// Of any other state Patroni may make a primary's, by single-user
			// recovery, when the first start fails.
			if _, control, err := pg.ReadControl(t.Context(), dir); err != nil || control.State != pg.StateArchiveRecovery || control.MinRecovery == 0 {
				t.Errorf("pg_control says %s, minimum recovery point %s (%v)", control.State, control.MinRecovery, err)
			}
			c := l.follow(t, dir, map[string]string{"restore_command": l.restoreCommand(1)})
			if diff := cmp.Diff(l.primary.Dump(t), c.Dump(t)); diff != "" {
				t.Error(diff)
			}
			c.AMCheck(t)
			c.Exec(t, "CHECKPOINT")
			c.Checksums(t)
		})
	}
}
