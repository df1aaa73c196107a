package patroni_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/mem"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

const prefix = "service/batman"

// keys reads a cluster's keys as one version of Patroni writes them.
func keys(t testing.TB, version string) map[string]string {
	t.Helper()
	data, err := os.ReadFile("testdata/cluster-" + version + ".json")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func snapshot(keys map[string]string) dcs.Snapshot {
	s := dcs.Snapshot{Revision: 42, Keys: map[string]dcs.Value{}}
	for k, v := range keys {
		leased := strings.Contains(k, "/members/") || strings.HasSuffix(k, "/leader")
		s.Keys[k] = dcs.Value{Data: v, Revision: 7, Leased: leased}
	}
	return s
}

// parse parses the 4.1 cluster with some keys replaced ("-" removes one).
func parse(t *testing.T, changes map[string]string) patroni.Cluster {
	t.Helper()
	c, err := patroni.Parse(snapshot(changed(t, changes)), prefix)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func changed(t *testing.T, changes map[string]string) map[string]string {
	t.Helper()
	return changedFrom(keys(t, "4.1.4"), changes)
}

func changedFrom(base, changes map[string]string) map[string]string {
	all := maps.Clone(base)
	for name, value := range changes {
		if value == "-" {
			delete(all, prefix+"/"+name)
		} else {
			all[prefix+"/"+name] = value
		}
	}
	return all
}

func TestAClusterOfPatroni302IsRead(t *testing.T) {
	got, err := patroni.Parse(snapshot(keys(t, "3.0.2")), prefix)
	if err != nil {
		t.Fatal(err)
	}
	want := patroni.Cluster{
		Namespace: "service", Scope: "batman", Revision: 42,
		Init: patroni.Initialized, SystemID: 7301234567890123456, Leader: "pg1",
		Members: []patroni.Member{
			{Name: "pg1", Role: patroni.RolePrimary, RawRole: "master", State: patroni.StateRunning, RawState: "running",
				Host: "10.0.0.11", Port: 5432, APIURL: "http://10.0.0.11:8008/patroni", Timeline: 3, LSN: 83886744, Version: "3.0.2"},
			{Name: "pg2", Role: patroni.RoleReplica, RawRole: "replica", State: patroni.StateRunning, RawState: "running",
				Host: "10.0.0.12", Port: 5432, APIURL: "http://10.0.0.12:8008/patroni", Timeline: 3, LSN: 83886744, Version: "3.0.2"},
			{Name: "pg3", Role: patroni.RoleUninitialized, RawRole: "uninitialized", State: patroni.StateCreatingReplica, RawState: "creating replica",
				Host: "10.0.0.13", Port: 5432, APIURL: "http://10.0.0.13:8008/patroni", Version: "3.0.2"},
		},
		Sync:   patroni.Sync{Present: true, Leader: "pg1", Standbys: []string{"pg2"}, Valid: true},
		Status: patroni.Status{LSN: 83886744},
		Timeline: patroni.Timelines{Known: true, Rows: []patroni.TimelineRow{
			{Parent: 1, Switch: 25165824, Reason: "no recovery target specified", Time: "2026-05-01T10:00:00+00:00", Leader: "pg2"},
			{Parent: 2, Switch: 67109024, Reason: "no recovery target specified", Time: "2026-06-01T10:00:00+00:00", Leader: "pg1"},
		}},
		Dynamic: patroni.Dynamic{
			Known: true, TTL: 30 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second,
			MaximumLagOnFailover: 1 << 20, MaximumLagOnSyncNode: -1, MemberSlotsTTL: 30 * time.Minute,
			SynchronousMode: patroni.SyncOn, SynchronousNodeCount: 1,
		},
	}
	for i := range want.Members {
		want.Members[i].Leased, want.Members[i].Revision, want.Members[i].Tags = true, 7, patroni.Tags{}
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(patroni.Dynamic{})); diff != "" {
		t.Error(diff)
	}
	if got := got.SyncStanding("pg2"); got != patroni.SyncStandby {
		t.Errorf("pg2 is %q", got)
	}
}

func TestAClusterOfPatroni41IsRead(t *testing.T) {
	c := parse(t, nil)
	if len(c.Problems) > 0 {
		t.Errorf("problems: %v", c.Problems)
	}
	pg2, _ := c.Member("pg2")
	want := patroni.Member{
		Name: "pg2", Role: patroni.RoleReplica, RawRole: "replica", State: patroni.StateRunning, RawState: "running",
		Host: "10.0.0.12", Port: 5432, APIURL: "https://10.0.0.12:8008/patroni", Timeline: 7,
		LSN: 83886744, Received: 83886744, ReplayLSN: 83886000, Replication: patroni.Streaming,
		Tags: patroni.Tags{"clonefrom": "true", "failover_priority": "2"}, Version: "4.1.4",
		PendingRestart: true, ScheduledRestart: "2026-08-01T03:00:00+00:00", Paused: true, Leased: true, Revision: 7,
	}
	if diff := cmp.Diff(want, pg2); diff != "" {
		t.Error(diff)
	}
	pg1, _ := c.LeaderMember()
	if pg1.Role != patroni.RolePrimary || !pg1.CheckpointPending {
		t.Errorf("leader is %+v", pg1)
	}
	if pg3, _ := c.Member("pg3"); pg3.Address() != "[fd00::13]:5433" {
		t.Errorf("pg3 is at %s", pg3.Address())
	}
	wantStatus := patroni.Status{LSN: 83886744, Slots: map[string]pg.LSN{"pg2": 83886744, "pg3": 83880000, "bkp_slot": 83000000}, RetainSlots: []string{"pg4"}}
	if diff := cmp.Diff(wantStatus, c.Status); diff != "" {
		t.Error(diff)
	}
	wantFailover := patroni.Failover{From: "pg1", To: "pg2", ScheduledAt: "2026-08-01T03:00:00+00:00"}
	if diff := cmp.Diff(wantFailover, c.Failover); diff != "" {
		t.Error(diff)
	}
	d := c.Dynamic
	if d.SynchronousMode != patroni.SyncOn || !d.Pause || d.MemberSlotsTTL != 10*time.Minute ||
		d.Slots["bkp_slot"]["type"] != "physical" || len(d.IgnoreSlots) != 1 || d.IgnoreSlots[0]["name"] != "x" {
		t.Errorf("configuration is %+v", d)
	}
	if c.Prefix() != prefix || c.StandbyCluster() {
		t.Errorf("prefix %s, standby cluster %v", c.Prefix(), c.StandbyCluster())
	}
}

func TestTheLagOfAMember(t *testing.T) {
	c := parse(t, nil)
	tests := []struct {
		name   string
		member string
		want   int64
		known  bool
	}{
		{"is counted from what it has replayed", "pg2", 744, true},
		{"is none for the leader", "pg1", 0, true},
		{"is unknown without a position", "pg3", 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := c.Member(tt.member)
			if got, known := c.Lag(m); got != tt.want || known != tt.known {
				t.Errorf("lag %d, %v", got, known)
			}
		})
	}
	if got, known := c.Lag(patroni.Member{LSN: 99999999}); got != 0 || !known {
		t.Errorf("a member past the leader's last known position lags %d, %v", got, known)
	}
	if c := parse(t, map[string]string{"status": "-", "members/pg1": "-"}); c.LeaderLSN() != 0 {
		t.Errorf("leader is at %s with nothing to tell", c.LeaderLSN())
	}
}

func TestTheSyncKeyCountsOnlyWhileItIsValid(t *testing.T) {
	on := `{"synchronous_mode":true}`
	tests := []struct {
		name    string
		changes map[string]string
		member  string
		want    patroni.SyncStanding
		why     string
	}{
		{"its leader leads and the mode is on", nil, "pg2", patroni.SyncStandby, ""},
		{"names are compared without regard to case", map[string]string{"sync": `{"leader":"PG1","sync_standby":"Pg2"}`}, "pg2", patroni.SyncStandby, ""},
		{"several standbys are named", map[string]string{"sync": `{"leader":"pg1","sync_standby":"pg3, pg2"}`}, "pg2", patroni.SyncStandby, ""},
		{"another member is named", map[string]string{"sync": `{"leader":"pg1","sync_standby":"pg3"}`}, "pg2", patroni.NotSync, ""},
		{"nobody is named", map[string]string{"sync": `{"leader":"pg1","sync_standby":null}`}, "pg2", patroni.NotSync, ""},
		{"the leader itself is named", map[string]string{"sync": `{"leader":"pg1","sync_standby":"pg1"}`}, "pg1", patroni.NotSync, ""},
		{"it was written by another leader", map[string]string{"sync": `{"leader":"pg3","sync_standby":"pg2"}`}, "pg2", patroni.NotSync, "the sync key is stale: it was written by pg3"},
		{"the mode is off", map[string]string{"config": `{"synchronous_mode":false}`}, "pg2", patroni.NotSync, "synchronous_mode is off"},
		{"the mode is not set", map[string]string{"config": `{}`}, "pg2", patroni.NotSync, "synchronous_mode is off"},
		{"the configuration is gone", map[string]string{"config": "-"}, "pg2", patroni.NotSync, "the dynamic configuration is unknown"},
		{"the configuration is damaged", map[string]string{"config": `{`}, "pg2", patroni.NotSync, "the dynamic configuration is unknown"},
		{"it is a standby cluster", map[string]string{"config": `{"synchronous_mode":true,"standby_cluster":{"host":"h"}}`}, "pg2", patroni.NotSync, "a standby cluster has no synchronous standbys"},
		{"a standby cluster without a source is none", map[string]string{"config": `{"synchronous_mode":true,"standby_cluster":{"create_replica_methods":["x"]}}`}, "pg2", patroni.SyncStandby, ""},
		{"there is no leader", map[string]string{"leader": "-"}, "pg2", patroni.NotSync, "the cluster has no leader"},
		{"there is no key", map[string]string{"sync": "-"}, "pg2", patroni.NotSync, "there is no sync key"},
		{"it was emptied", map[string]string{"sync": "{}"}, "pg2", patroni.NotSync, "the sync key names no leader"},
		{"it is damaged", map[string]string{"sync": "[]"}, "pg2", patroni.NotSync, "the sync key names no leader"},
		{"quorum mode guarantees nothing of one voter", map[string]string{"config": `{"synchronous_mode":"quorum"}`}, "pg2", patroni.QuorumStandby, ""},
		{"quorum mode in any case", map[string]string{"config": `{"synchronous_mode":"Quorum"}`}, "pg2", patroni.QuorumStandby, ""},
		{"a quorum in the key while the mode is being changed", map[string]string{"config": on, "sync": `{"leader":"pg1","quorum":1,"sync_standby":"pg2,pg3"}`}, "pg2", patroni.QuorumStandby, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := parse(t, tt.changes)
			if got := c.SyncStanding(tt.member); got != tt.want {
				t.Errorf("%s is %q, want %q", tt.member, got, tt.want)
			}
			if c.Sync.Why != tt.why || c.Sync.Valid != (tt.why == "") {
				t.Errorf("valid %v, because %q", c.Sync.Valid, c.Sync.Why)
			}
		})
	}
}

func TestWhatCannotBeReadIsAProblemAndTakenForAbsent(t *testing.T) {
	tests := []struct {
		name, key, value, want string
	}{
		{"a member that is no JSON", "members/pg2", "{", "the member's value is ignored: unexpected EOF"},
		{"a member that is a list", "members/pg2", "[]", "the member's value is ignored: it is no JSON object"},
		{"a role of the future", "members/pg2", `{"role":"emperor"}`, `unknown role "emperor"`},
		{"a state of the future", "members/pg2", `{"state":"dreaming"}`, `unknown state "dreaming"`},
		{"a timeline of zero", "members/pg2", `{"timeline":0}`, "timeline is no number from 1 to 4294967295"},
		{"a conn_url without a host", "members/pg2", `{"conn_url":"postgres:///x"}`, "conn_url is no URL with a host"},
		{"a configuration that is a list", "config", "[]", "the configuration is ignored: it is no JSON object"},
		{"an empty configuration", "config", "", "the configuration is ignored: it is empty"},
		{"a status that is text", "status", `"x"`, "the status is ignored: it is neither an object nor a position"},
		{"an optime that is text", "status", `{"optime":"x"}`, "optime is no position"},
		{"a history that is an object", "history", "{}", "the timeline history is ignored: it is no list"},
		{"a history row that is too short", "history", "[[1,2]]", "the timeline history is ignored: row 1 does not have 3 to 5 items"},
		{"a history row without a switch point", "history", `[[1,"x",""]]`, "the timeline history is ignored: row 1 has no timeline and switch point"},
		{"history rows out of order", "history", `[[2,5,""],[1,6,""]]`, "the timeline history is ignored: row 2 does not follow row 1"},
		{"history rows whose switch goes back", "history", `[[1,5,""],[2,4,""]]`, "the timeline history is ignored: row 2 does not follow row 1"},
		{"a sync state that is no JSON", "sync", "x", "the sync state is ignored: invalid character 'x' looking for beginning of value"},
		{"a quorum below zero", "sync", `{"leader":"pg1","quorum":-1}`, "the sync state is ignored: quorum is no count"},
		{"a failover request that is a list", "failover", "[]", "the failover request is ignored: it is no JSON object"},
		{"an empty leader key", "leader", "", "the key names nobody"},
		{"two JSON values", "status", "{} {}", "the status is ignored: text follows the JSON value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := parse(t, map[string]string{tt.key: tt.value})
			want := []patroni.Problem{{Key: prefix + "/" + tt.key, Text: tt.want}}
			if diff := cmp.Diff(want, c.Problems); diff != "" {
				t.Error(diff)
			}
			if len(c.Members) != 3 {
				t.Errorf("%d members", len(c.Members))
			}
		})
	}
}

func TestOldFormsAreRead(t *testing.T) {
	c := parse(t, map[string]string{
		"members/pg0":   "postgres://u:secret@h0:5433/postgres?application_name=http://h0:8008/patroni",
		"members/a/b":   "{}",
		"members/":      "{}",
		"status":        "-",
		"optime/leader": "12345",
		"failover":      "pg1:pg2",
		"sync":          "",
	})
	pg0, _ := c.Member("pg0")
	want := patroni.Member{Name: "pg0", Host: "h0", Port: 5433, APIURL: "http://h0:8008/patroni", Leased: true, Revision: 7}
	if diff := cmp.Diff(want, pg0); diff != "" {
		t.Error(diff)
	}
	if len(c.Members) != 4 || c.Status.LSN != 12345 {
		t.Errorf("%d members, status %+v", len(c.Members), c.Status)
	}
	if diff := cmp.Diff(patroni.Failover{From: "pg1", To: "pg2"}, c.Failover); diff != "" || !c.Failover.Pending() {
		t.Error(diff)
	}
	if len(c.Problems) > 0 {
		t.Errorf("problems: %v", c.Problems)
	}
	if c := parse(t, map[string]string{"failover": "{}"}); c.Failover.Pending() {
		t.Error("an empty failover key is pending")
	}
	// Kubernetes annotations hold JSON in text.
	c = parse(t, map[string]string{"status": `{"optime":"83886744","slots":"{\"pg2\":\"5\"}","retain_slots":"[\"pg4\"]"}`})
	wantStatus := patroni.Status{LSN: 83886744, Slots: map[string]pg.LSN{"pg2": 5}, RetainSlots: []string{"pg4"}}
	if diff := cmp.Diff(wantStatus, c.Status); diff != "" {
		t.Error(diff)
	}
}

func TestInitializeSaysWhichClusterItIs(t *testing.T) {
	if c := parse(t, map[string]string{"initialize": ""}); c.Init != patroni.Bootstrapping || c.SystemID != 0 {
		t.Errorf("%s %s", c.Init, c.SystemID)
	}
	if c := parse(t, map[string]string{"initialize": "-"}); c.Init != patroni.NeverInitialized {
		t.Errorf("%s", c.Init)
	}
	_, err := patroni.Parse(snapshot(changed(t, map[string]string{"initialize": "batman"})), prefix)
	if err == nil || !strings.HasPrefix(err.Error(), "read service/batman/initialize: ") || finding.Hint(err) == "" {
		t.Errorf("error %v, hint %q", err, finding.Hint(err))
	}
}

func TestAMissingClusterIsAnErrorThatNamesTheOthers(t *testing.T) {
	server := mem.NewServer()
	for key, value := range keys(t, "4.1.4") {
		server.Put(key, value)
	}
	server.Put("citus/db/0/leader", "pg1")
	server.Put("citus/db/1/leader", "pg1")
	store := server.Open(mem.Options{})
	tests := []struct {
		name, namespace, scope, hint string
	}{
		{"a mistyped scope", "/service/", "robin", "compare scope and namespace with patroni.yml; scopes below service: batman, batman2"},
		{"a mistyped namespace", "db", "batman", "compare scope and namespace with patroni.yml; nothing at all is below db"},
		{"a Citus cluster without its group", "citus", "db", "this is a Citus cluster; name one of its groups: 0, 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := patroni.Load(t.Context(), store, tt.namespace, tt.scope)
			if !errors.Is(err, patroni.ErrNoCluster) {
				t.Fatalf("error %v", err)
			}
			if got := finding.Hint(err); got != tt.hint {
				t.Errorf("hint %q, want %q", got, tt.hint)
			}
		})
	}
	c, err := patroni.Load(t.Context(), store, "", "batman")
	if err != nil || c.Leader != "pg1" || c.Namespace != "service" || c.Scope != "batman" {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = patroni.Load(t.Context(), store, "citus", "db/1")
	if err != nil || c.Leader != "pg1" || c.Scope != "db/1" || c.Prefix() != "citus/db/1" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := patroni.Load(t.Context(), store, "service", "/"); err == nil {
		t.Error("an empty scope was read")
	}
}

func TestADCSThatDoesNotAnswerIsNoMissingCluster(t *testing.T) {
	_, err := patroni.Load(t.Context(), deadReader{}, "service", "batman")
	if !errors.Is(err, dcs.ErrUnavailable) || errors.Is(err, patroni.ErrNoCluster) {
		t.Errorf("error %v", err)
	}
}

type deadReader struct{ dcs.Reader }

func (deadReader) Read(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	return dcs.Snapshot{}, dcs.ErrUnavailable
}

func TestPrefixCollapsesSlashes(t *testing.T) {
	for _, tt := range []struct{ namespace, scope, want string }{
		{"", "batman", "service/batman"},
		{"/service/", "batman", "service/batman"},
		{"//a//b/", "/c/", "a/b/c"},
		{"service", "db/0", "service/db/0"},
	} {
		if got := patroni.Prefix(tt.namespace, tt.scope); got != tt.want {
			t.Errorf("Prefix(%q, %q) = %q, want %q", tt.namespace, tt.scope, got, tt.want)
		}
	}
}

func TestSlotNamesAreThoseOfPatroni(t *testing.T) {
	for member, want := range map[string]string{
		"pg1":                     "pg1",
		"PG-1.example.com":        "pg_1_example_com",
		"a b":                     "au0032b",
		"é":                       "u0233",
		strings.Repeat("abc", 30): strings.Repeat("abc", 21),
	} {
		if got := patroni.SlotName(member); got != want {
			t.Errorf("SlotName(%q) = %q, want %q", member, got, want)
		}
	}
}
