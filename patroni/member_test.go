package patroni_test

import (
	"testing"

	"github.com/pgtender/pgtender/patroni"
)

func TestRolesOfBothVersionsAreRead(t *testing.T) {
	for text, want := range map[string]patroni.Role{
		"master": patroni.RolePrimary, "primary": patroni.RolePrimary, "replica": patroni.RoleReplica,
		"standby_leader": patroni.RoleStandbyLeader, "demoted": patroni.RoleDemoted,
		"uninitialized": patroni.RoleUninitialized, "promoted": patroni.RolePromoted, "": patroni.RoleUnknown, "x": patroni.RoleUnknown,
	} {
		if got := patroni.ParseRole(text); got != want {
			t.Errorf("ParseRole(%q) = %s, want %s", text, got, want)
		}
	}
}

func TestStatesOfBothVersionsAreRead(t *testing.T) {
	for text, want := range map[string]patroni.State{
		"initializing new cluster": patroni.StateInitdb, "initdb failed": patroni.StateInitdbFailed,
		"running custom bootstrap script": patroni.StateCustomBootstrap, "custom bootstrap failed": patroni.StateCustomBootstrapFailed,
		"creating replica": patroni.StateCreatingReplica, "running": patroni.StateRunning, "streaming": patroni.StateRunning,
		"in archive recovery": patroni.StateRunning, "starting": patroni.StateStarting,
		"starting after custom bootstrap": patroni.StateStarting, "start failed": patroni.StateStartFailed,
		"restarting": patroni.StateRestarting, "restart failed": patroni.StateRestartFailed,
		"restart failed (timeout)": patroni.StateRestartFailed, "stopping": patroni.StateStopping,
		"stopped": patroni.StateStopped, "stop failed": patroni.StateStopFailed, "crashed": patroni.StateCrashed,
		"": patroni.StateUnknown, "unknown": patroni.StateUnknown,
	} {
		if got := patroni.ParseState(text); got != want {
			t.Errorf("ParseState(%q) = %s, want %s", text, got, want)
		}
	}
}

func TestTagsAreReadLikePatroniReadsThem(t *testing.T) {
	tags := patroni.Tags{"a": "true", "b": "false", "c": "0", "d": "3", "e": "", "f": "dc1", "g": "-1", "h": "No"}
	for name, want := range map[string]bool{"a": true, "b": false, "c": false, "d": true, "e": false, "f": true, "g": false, "h": false, "missing": false} {
		if got := tags.Bool(name); got != want {
			t.Errorf("tag %s=%q is %v", name, tags[name], got)
		}
	}
	tests := []struct {
		name           string
		tags           patroni.Tags
		failover, sync bool
	}{
		{"none", nil, false, false},
		{"nofailover and nosync", patroni.Tags{"nofailover": "true", "nosync": "true"}, true, true},
		{"priorities of zero", patroni.Tags{"failover_priority": "0", "sync_priority": "0"}, true, true},
		{"positive priorities", patroni.Tags{"failover_priority": "1", "sync_priority": "2"}, false, false},
		{"the boolean wins over the priority", patroni.Tags{"nofailover": "false", "failover_priority": "0"}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.tags.NoFailover(); got != tt.failover {
				t.Errorf("NoFailover is %v", got)
			}
			if got := tt.tags.NoSync(); got != tt.sync {
				t.Errorf("NoSync is %v", got)
			}
		})
	}
}

func TestOnlyNewMembersReportReplication(t *testing.T) {
	for version, want := range map[string]bool{"3.0.2": false, "3.0.4": true, "3.1": true, "4.1.4": true, "4.2.0b1": true, "3.0.4rc1": true, "2.1.7": false, "3.0": false, "": false, "x": false, "3.x": false} {
		if got := (patroni.Member{Version: version}).ReportsReplication(); got != want {
			t.Errorf("version %q: %v", version, got)
		}
	}
}

func TestConnURLs(t *testing.T) {
	for text, want := range map[string]string{
		"postgres://h:5432/postgres":         "h:5432",
		"postgres://h/postgres":              "h:5432",
		"postgresql://u:p@h:1/x":             "h:1",
		"postgres://[fd00::1]:5432/postgres": "[fd00::1]:5432",
		"postgres://h:99999/x":               "",
		"postgres://h:0/x":                   "",
		"postgres:///x":                      "",
		"::":                                 "",
	} {
		c := parse(t, map[string]string{"members/pg2": `{"conn_url":"` + text + `"}`})
		m, _ := c.Member("pg2")
		if got := m.Address(); got != want {
			t.Errorf("%s: address %q, want %q", text, got, want)
		}
	}
}
