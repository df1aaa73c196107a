package patroni_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/servertest"
	"github.com/pgtender/pgtender/patroni"
)

// ask puts questions to a release of Patroni itself (testdata/agree.py), and
// decodes the list of answers.
func ask(t *testing.T, release string, questions []any, answers any) {
	t.Helper()
	python := filepath.Join(servertest.CacheDir(), "patroni", release, "bin", "python3")
	if _, err := os.Stat(python); err != nil || testing.Short() {
		servertest.Missing(t, "Patroni %s is not in the cache: %v", release, err)
	}
	in, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/agree.py")
	cmd.Stdin = strings.NewReader(string(in))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ask Patroni %s: %v", release, err)
	}
	if err := json.Unmarshal(out, answers); err != nil {
		t.Fatal(err)
	}
}

// shown is what GET /cluster says of one member, as far as both sides know it.
type shown struct {
	Name, Role, Host string
	Port             int
	Timeline         int
	Lag              string // bytes, "unknown", or "" for the leader
}

func TestAClusterMeansToUsWhatItMeansToPatroni(t *testing.T) {
	changes := map[string]map[string]string{
		"as it is":             nil,
		"a stale sync key":     {"sync": `{"leader":"pg3","sync_standby":"pg2"}`},
		"another case":         {"sync": `{"leader":"PG1","sync_standby":"PG2"}`},
		"several standbys":     {"sync": `{"leader":"pg1","sync_standby":"pg2, pg3"}`},
		"quorum mode":          {"config": `{"synchronous_mode":"quorum"}`, "sync": `{"leader":"pg1","quorum":1,"sync_standby":"pg2,pg3"}`},
		"sync off":             {"config": `{"synchronous_mode":"off"}`},
		"a standby cluster":    {"config": `{"synchronous_mode":true,"standby_cluster":{"host":"h"}}`},
		"no leader":            {"leader": "-", "sync": "-"},
		"a leader without key": {"leader": "pg9"},
		"a damaged member":     {"members/pg2": "{"},
		"the oldest member":    {"members/pg2": "postgres://h0:5433/postgres?application_name=http://h0:8008/patroni"},
		"the oldest optime":    {"status": "-", "optime/leader": "83886000"},
		"optime as text":       {"status": `{"optime":"83887000"}`},
		"odd names":            {"members/PG-4.example": `{"conn_url":"postgres://h/postgres","state":"running","xlog_location":5}`},
		"an empty sync key":    {"sync": "{}"},
		"no history":           {"history": "[]"},
	}
	for release, version := range map[string]string{"3.0": "3.0.2", "4.1": "4.1.4"} {
		var names []string
		var questions []any
		for name, change := range changes {
			nodes := map[string]string{}
			for key, value := range changedFrom(keys(t, version), change) {
				if rest, ok := strings.CutPrefix(key, prefix+"/"); ok && !strings.HasPrefix(rest, "pgtender/") {
					nodes[rest] = value
				}
			}
			names = append(names, name)
			questions = append(questions, []any{"cluster", nodes})
		}
		var answers []answer
		ask(t, release, questions, &answers)
		for i, answer := range answers {
			t.Run(release+" "+names[i], func(t *testing.T) {
				c, err := patroni.Parse(snapshot(changedFrom(keys(t, version), changes[names[i]])), prefix)
				if err != nil {
					t.Fatal(err)
				}
				compareCluster(t, answer, c, differs[release+" "+names[i]] != "")
			})
		}
	}
}

// differs are the clusters in which our word for a member's role is another
// than Patroni's, and why.
var differs = map[string]string{
	"3.0 a stale sync key":     "GET /cluster does not look at who wrote the key",
	"4.1 a stale sync key":     "GET /cluster does not look at who wrote the key",
	"3.0 sync off":             "3.0 shows the sync key whatever the mode",
	"3.0 a leader without key": "GET /cluster does not look at who wrote the key",
	"4.1 a leader without key": "GET /cluster does not look at who wrote the key",
	"3.0 another case":         "3.0 compares names exactly",
	"3.0 quorum mode":          "3.0 has none",
	"3.0 a standby cluster":    "3.0 takes its sync key for valid",
}

// answer is what GET /cluster would say, and a few derived values.
type answer struct {
	Members []struct {
		Name, Role, Host string
		Port, Timeline   int
		Lag              json.RawMessage
		ReplayLag        json.RawMessage `json:"replay_lag"`
	}
	Timeline int
	Slots    map[string]string
}

func compareCluster(t *testing.T, a answer, c patroni.Cluster, anyRole bool) {
	t.Helper()
	var want, got []shown
	for _, m := range a.Members {
		lag := strings.Trim(string(m.Lag), `"`)
		if replay := strings.Trim(string(m.ReplayLag), `"`); replay != "" && replay != "unknown" {
			lag = replay
		}
		want = append(want, shown{m.Name, m.Role, m.Host, m.Port, m.Timeline, lag})
	}
	for _, m := range c.Members {
		got = append(got, ours(c, m))
		if slot := a.Slots[m.Name]; slot != m.SlotName() {
			t.Errorf("slot %s, Patroni has %s", m.SlotName(), slot)
		}
	}
	if anyRole {
		for i := range want {
			want[i].Role, got[i].Role = "", ""
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-Patroni +ours:\n%s", diff)
	}
	if len(c.Timeline.Rows) > 0 && int(c.Timeline.Timeline()) != a.Timeline {
		t.Errorf("timeline %s, Patroni says %d", c.Timeline.Timeline(), a.Timeline)
	}
}

// ours is what we know of a member, in GET /cluster's words.
func ours(c patroni.Cluster, m patroni.Member) shown {
	s := shown{Name: m.Name, Role: "replica", Host: m.Host, Port: m.Port, Timeline: int(m.Timeline)}
	switch standing := c.SyncStanding(m.Name); {
	case m.Name == c.Leader && c.StandbyCluster():
		s.Role = "standby_leader"
	case m.Name == c.Leader:
		s.Role = "leader"
	case standing != patroni.NotSync:
		s.Role = standing.String()
	}
	if m.Name == c.Leader {
		return s
	}
	// Patroni counts from optime alone, we from the leader's key too.
	c.Leader = ""
	lag, known := c.Lag(m)
	s.Lag = fmt.Sprint(lag)
	if !known {
		s.Lag = "unknown"
	}
	return s
}

func TestTheEnvironmentMeansToUsWhatItMeansToPatroni(t *testing.T) {
	cases := []map[string]string{
		{"PATRONI_SCOPE": "a", "PATRONI_NAME": "n", "PATRONI_NAMESPACE": "/x/"},
		{"PATRONI_SCOPE": ""},
		{"PATRONI_ETCD3_HOSTS": "a:1,b:2", "PATRONI_ETCD3_USERNAME": "u", "PATRONI_ETCD3_PASSWORD": "p"},
		{"PATRONI_ETCD3_USERNAME": "u", "PATRONI_ETCD3_PASSWORD": "p"},
		{"PATRONI_ETCD3_HOSTS": "- a:1\n- 'b'", "PATRONI_ETCD3_USE_PROXIES": "on", "PATRONI_ETCD3_PROTOCOL": "https"},
		{"PATRONI_ETCD3_HOST": "", "PATRONI_ETCD3_HOSTS": ""},
		{"PATRONI_ETCD_URL": "http://u:p@h:1", "PATRONI_ETCD_SRV_SUFFIX": "s", "PATRONI_ETCD_CACERT": "/ca"},
		{"PATRONI_CONSUL_HOST": "h", "PATRONI_CONSUL_PORT": "8501", "PATRONI_CONSUL_VERIFY": "maybe", "PATRONI_CONSUL_TOKEN": "t"},
		{"PATRONI_CONSUL_PORT": "x", "PATRONI_CONSUL_REGISTER_SERVICE": "off", "PATRONI_CONSUL_CHECKS": "[]"},
		{"PATRONI_KUBERNETES_LABELS": "a: b, c: d", "PATRONI_KUBERNETES_USE_ENDPOINTS": "true", "PATRONI_KUBERNETES_SCOPE_LABEL": "l"},
		{"PATRONI_CITUS_GROUP": "1", "PATRONI_CITUS_DATABASE": "d"},
		{"PATRONI_RESTAPI_LISTEN": "l", "PATRONI_RESTAPI_USERNAME": "u", "PATRONI_RESTAPI_PASSWORD": "p", "PATRONI_RESTAPI_VERIFY_CLIENT": "required"},
		{"PATRONI_CTL_INSECURE": "1", "PATRONI_CTL_CACERT": "/ca", "PATRONI_CTL_KEYFILE_PASSWORD": "k"},
		{"PATRONI_CTL_INSECURE": "perhaps"},
		{"PATRONI_POSTGRESQL_DATA_DIR": "/d", "PATRONI_POSTGRESQL_BIN_DIR": "/b", "PATRONI_POSTGRESQL_PGPASS": "/p"},
		{"PATRONI_REPLICATION_USERNAME": "r", "PATRONI_REPLICATION_SSLMODE": "require", "PATRONI_SUPERUSER_PASSWORD": "s", "PATRONI_REWIND_SSLKEY": "k"},
		{"PATRONI_RAFT_SELF_ADDR": "h:1", "PATRONI_RAFT_DATA_DIR": "/d"},
		{"PATRONI_ZOOKEEPER_HOSTS": "'a:1','b:2'"},
		{"PATRONI_X_Y": "z", "PATRONI_HOST": "h", "PATRONI__HOST": "h", "PATRONI_": ""},
	}
	for _, release := range []string{"3.0", "4.1"} {
		var questions []any
		for _, variables := range cases {
			questions = append(questions, []any{"environment", variables})
		}
		var answers []map[string]any
		ask(t, release, questions, &answers)
		for i, want := range answers {
			var environ []string
			for name, value := range cases[i] {
				environ = append(environ, name+"="+value)
			}
			delete(want, "bootstrap") // 3.0 makes users of PATRONI_<USER>_PASSWORD
			got, err := patroni.EnvConfig(environ)
			if err != nil {
				t.Errorf("%v: %v", cases[i], err)
				continue
			}
			if diff := cmp.Diff(plain(t, want), plain(t, got)); diff != "" {
				t.Errorf("%s %v (-Patroni +ours):\n%s", release, cases[i], diff)
			}
		}
	}
}

// plain gives a value the form it has after a passage through JSON, without
// empty sections.
func plain(t *testing.T, v any) map[string]any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	for key, value := range out {
		if m, ok := value.(map[string]any); ok && len(m) == 0 {
			delete(out, key)
		}
	}
	return out
}

func TestTheSettingsInForceAreThoseOfPatroni(t *testing.T) {
	const local = `
scope: a
name: n
postgresql:
  data_dir: /local
  listen: "*:5432"
  use_slots: true
  use_pg_rewind: no
  create_replica_methods: [pgtender, basebackup]
  pgtender: {command: x}
  parameters: {archive_command: local, max_connections: 7, work_mem: 1GB, archive_mode: yes}
  recovery_conf: {restore_command: local}
  authentication: {superuser: {username: s, unknown: x}, replication: {username: r}}
`
	dynamics := []string{
		`{}`,
		`{"postgresql":{"data_dir":"/dynamic","use_slots":false,"use_pg_rewind":true,"remove_data_directory_on_rewind_failure":true,
			"recovery_conf":{"restore_command":"dynamic","recovery_end_command":"e"},
			"parameters":{"archive_mode":"off","archive_command":"dynamic","max_connections":200,"archive_timeout":60}}}`,
		`{"postgresql":{"authentication":{"superuser":{"username":"no"}},"create_replica_methods":["basebackup"],"bin_dir":"/b"}}`,
	}
	path := writeFile(t, "patroni.yml", local)
	c, err := patroni.ReadConfig(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, release := range []string{"3.0", "4.1"} {
		var questions []any
		for _, doc := range dynamics {
			questions = append(questions, []any{"effective", path, json.RawMessage(doc)})
		}
		var answers []struct {
			DataDir    string            `json:"data_dir"`
			BinDir     string            `json:"bin_dir"`
			UseSlots   bool              `json:"use_slots"`
			UsePgRew   bool              `json:"use_pg_rewind"`
			Remove     bool              `json:"remove_data_directory_on_rewind_failure"`
			Methods    []string          `json:"create_replica_methods"`
			Recovery   map[string]string `json:"recovery_conf"`
			Parameters map[string]any    `json:"parameters"`
		}
		ask(t, release, questions, &answers)
		for i, want := range answers {
			d, err := patroni.ParseDynamic(dynamics[i])
			if err != nil {
				t.Fatal(err)
			}
			p := c.Effective(d)
			if p.DataDir != want.DataDir || p.BinDir != want.BinDir || p.UseSlots != want.UseSlots || p.UsePgRewind != want.UsePgRew || p.RemoveDataDirectoryOnRewindFailure != want.Remove {
				t.Errorf("%s %d: %+v, Patroni has %+v", release, i, p, want)
			}
			if diff := cmp.Diff(want.Methods, p.CreateReplicaMethods); diff != "" {
				t.Errorf("%s %d: %s", release, i, diff)
			}
			if diff := cmp.Diff(want.Recovery, p.RecoveryConf); diff != "" {
				t.Errorf("%s %d: %s", release, i, diff)
			}
			for name, value := range p.Parameters {
				theirs := fmt.Sprint(want.Parameters[name])
				if theirs == "true" {
					theirs = "on"
				}
				if theirs != value {
					t.Errorf("%s %d: %s is %q, Patroni has %q", release, i, name, value, theirs)
				}
			}
		}
	}
}
