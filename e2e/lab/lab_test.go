package lab_test

import (
	"testing"
	"time"

	"github.com/pgtender/pgtender/e2e/lab"
)

// A real failover on each combination of Patroni and DCS, and what the lab
// promises on the way: nothing acknowledged is lost, the old leader comes back
// as a replica, and a wiped member is rebuilt.
func TestThreeNodesFailOver(t *testing.T) {
	for _, tt := range []struct{ name, patroni, dcs string }{
		{"Patroni 4.1 on etcd", "4.1", "etcd"},
		{"Patroni 3.0 on etcd", "3.0", "etcd"},
		{"Patroni 4.1 on Consul", "4.1", "consul"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			began := time.Now()
			l := lab.Start(t, lab.Options{Patroni: tt.patroni, DCS: tt.dcs})
			t.Logf("three nodes stream after %v", time.Since(began))
			failOver(t, l)
		})
	}
}

func failOver(t *testing.T, l *lab.Test) {
	old, standby := l.Leader(), l.WaitSyncStandby()
	if old == standby {
		t.Fatalf("%s is both leader and synchronous standby", old.Name)
	}
	l.SQL(old, "create table acknowledged as select 1 as row")
	began := time.Now()
	old.Kill()
	if left := old.Processes(); len(left) > 0 {
		t.Fatalf("processes %v of %s survived Kill", left, old.Name)
	}
	leader := l.WaitLeader()
	t.Logf("%s leads %v after the death of %s", leader.Name, time.Since(began), old.Name)
	if leader != standby {
		t.Errorf("%s leads after the failover, not the synchronous standby %s", leader.Name, standby.Name)
	}
	if got := l.SQL(leader, "select row from acknowledged"); got != "1" {
		t.Errorf("the acknowledged row is %q on the new leader", got)
	}
	l.StartNode(old)
	l.WaitStreaming(2)
	t.Logf("%s is back %v after its death", old.Name, time.Since(began))
}
