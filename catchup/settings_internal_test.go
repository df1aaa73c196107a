package catchup

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/internal/pg"
)

func TestRecoverySettings(t *testing.T) {
	plan := func(purpose Purpose, t Target) *Plan {
		return &Plan{Purpose: purpose, Target: t, Lineage: archive.Lineage{History: pg.History{Timeline: 7}}}
	}
	at := time.Date(2026, 5, 1, 12, 0, 0, 123456000, time.FixedZone("", 2*3600))
	for name, test := range map[string]struct {
		plan *Plan
		want []string // what follows restore_command
	}{
		"the end of the archive": {plan(Restore, Target{}), []string{
			"recovery_target = ''", "recovery_target_lsn = ''", "recovery_target_name = ''", "recovery_target_time = ''", "recovery_target_xid = ''",
			"recovery_target_timeline = '7'",
		}},
		"a time": {plan(Restore, Target{Kind: AtTime, Time: at, Exclusive: true}), []string{
			"recovery_target = ''", "recovery_target_lsn = ''", "recovery_target_name = ''", "recovery_target_xid = ''",
			"recovery_target_timeline = '7'", "recovery_target_inclusive = 'off'", "recovery_target_action = 'pause'",
			"recovery_target_time = '2026-05-01 12:00:00.123456+02:00'",
		}},
		"a restore point with a quote": {plan(Bootstrap, Target{Kind: AtName, Name: "it's", Action: "promote"}), []string{
			"recovery_target = ''", "recovery_target_lsn = ''", "recovery_target_time = ''", "recovery_target_xid = ''",
			"recovery_target_timeline = '7'", "recovery_target_inclusive = 'on'", "recovery_target_action = 'promote'",
			"recovery_target_name = 'it''s'",
		}},
		"immediate, then shut down": {plan(Restore, Target{Kind: Immediate, Action: "shutdown"}), []string{
			"recovery_target_lsn = ''", "recovery_target_name = ''", "recovery_target_time = ''", "recovery_target_xid = ''",
			"recovery_target_timeline = '7'", "recovery_target_inclusive = 'on'", "recovery_target_action = 'shutdown'",
			"recovery_target = 'immediate'",
		}},
		"a replica, which has no target": {plan(Replica, Target{Kind: AtXID, XID: 5}), []string{
			"recovery_target = ''", "recovery_target_lsn = ''", "recovery_target_name = ''", "recovery_target_time = ''", "recovery_target_xid = ''",
			"recovery_target_timeline = 'latest'",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			old := "work_mem = '8MB'\nrecovery_target_time = 'old'\nrestore_command = 'old'\nrecovery_target_action = shutdown\n"
			got, err := autoConf(old, test.plan, "fetch %f %p")
			if err != nil {
				t.Fatal(err)
			}
			want := "work_mem = '8MB'\n#recovery_target_time = 'old'\n#restore_command = 'old'\n#recovery_target_action = shutdown\n" +
				"restore_command = 'fetch %f %p'\n" + strings.Join(test.want, "\n") + "\n"
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			again, err := autoConf(got, test.plan, "fetch %f %p")
			if err != nil {
				t.Fatal(err)
			}
			// An interrupted run does it twice; a server reads the same.
			a, err := pg.ParseConf(got)
			if err != nil {
				t.Fatal(err)
			}
			b, err := pg.ParseConf(again)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(a, b); diff != "" {
				t.Error(diff)
			}
		})
	}
}
