package patroni_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/patroni"
)

// config reads a patroni.yml with the environment's overrides.
func config(t testing.TB, yml string, environ ...string) patroni.Config {
	t.Helper()
	c, err := patroni.ReadConfig(writeFile(t, "patroni.yml", yml), environ)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func writeFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const fullConfig = `
scope: batman
namespace: /db/
name: pg1
restapi:
  listen: 0.0.0.0:8008
  connect_address: 10.0.0.11:8008
  certfile: /etc/patroni/rest.crt
  keyfile: /etc/patroni/rest.key
  cafile: /etc/patroni/ca.crt
  verify_client: required
  authentication: {username: admin, password: restgeheim}
ctl:
  insecure: off
  certfile: /etc/patroni/ctl.crt
etcd3:
  hosts: [10.0.0.1:2379, 10.0.0.2:2379]
bootstrap:
  method: pgtender
  pgtender:
    command: pgtender bootstrap
    keep_existing_recovery_conf: yes
  dcs:
    ttl: 20
postgresql:
  listen: 10.0.0.11,127.0.0.1:5433
  connect_address: 10.0.0.11:5433
  data_dir: /data/pg
  bin_dir: /usr/lib/postgresql/15/bin
  pgpass: /tmp/pgpass
  use_pg_rewind: on
  create_replica_methods: [pgtender, basebackup]
  pgtender:
    command: pgtender create-replica
    keep_data: true
    no_leader: 1
  basebackup:
    checkpoint: fast
  recovery_conf:
    restore_command: pgtender archive-get %f %p
  parameters:
    archive_mode: on
    Archive_Command: pgtender archive-push %p
    max_connections: 5
  authentication:
    superuser: {username: postgres, password: supergeheim}
    replication: {username: replicator, password: replgeheim, sslmode: verify-full, sslpassword: sslgeheim}
tags: {nofailover: false, nobackup: yes}
`

func TestPatroniYmlIsRead(t *testing.T) {
	c := config(t, fullConfig)
	if c.Scope != "batman" || c.Namespace != "db" || c.Name != "pg1" || c.ScopePath() != "batman" {
		t.Errorf("identity %q %q %q", c.Namespace, c.Scope, c.Name)
	}
	p := c.Postgres
	want := patroni.Postgres{
		DataDir: "/data/pg", BinDir: "/usr/lib/postgresql/15/bin", ConfigDir: "/data/pg",
		Listen: "10.0.0.11,127.0.0.1:5433", ConnectAddress: "10.0.0.11:5433", PGPass: "/tmp/pgpass",
		Parameters:           map[string]string{"archive_mode": "on", "archive_command": "pgtender archive-push %p"},
		RecoveryConf:         map[string]string{"restore_command": "pgtender archive-get %f %p"},
		CreateReplicaMethods: []string{"pgtender", "basebackup"},
		Methods: map[string]patroni.Method{
			"pgtender":   {Name: "pgtender", Section: true, Command: "pgtender create-replica", KeepData: true, NoLeader: true},
			"basebackup": {Name: "basebackup", Section: true, Command: "basebackup"},
		},
		UseSlots: true, UsePgRewind: true,
		Superuser:   patroni.Auth{Username: "postgres", Password: "supergeheim"},
		Replication: patroni.Auth{Username: "replicator", Password: "replgeheim", SSLMode: "verify-full", SSLPassword: "sslgeheim"},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	if host, port := p.Local(); host != "localhost" || port != 5433 {
		t.Errorf("local address %s %d", host, port)
	}
	wantREST := patroni.RESTAPI{
		Listen: "0.0.0.0:8008", ConnectAddress: "10.0.0.11:8008", Username: "admin", Password: "restgeheim",
		CertFile: "/etc/patroni/rest.crt", KeyFile: "/etc/patroni/rest.key", CAFile: "/etc/patroni/ca.crt", VerifyClient: "required",
	}
	if diff := cmp.Diff(wantREST, c.RESTAPI); diff != "" {
		t.Error(diff)
	}
	if got := c.RESTAPI.URL(); got != "https://10.0.0.11:8008/patroni" {
		t.Errorf("api_url %s", got)
	}
	wantCtl := patroni.Ctl{Username: "admin", Password: "restgeheim", CACert: "/etc/patroni/ca.crt", CertFile: "/etc/patroni/ctl.crt"}
	if diff := cmp.Diff(wantCtl, c.Ctl); diff != "" {
		t.Error(diff)
	}
	b := c.Bootstrap
	if !b.Custom || b.Method != "pgtender" || b.Command != "pgtender bootstrap" || !b.KeepRecoveryConf || b.HasRecoveryConf || b.DCS.TTL.Seconds() != 20 {
		t.Errorf("bootstrap %+v", b)
	}
	if diff := cmp.Diff(patroni.Tags{"nofailover": "false", "nobackup": "true"}, c.Tags); diff != "" {
		t.Error(diff)
	}
}

func TestSecretsDoNotShow(t *testing.T) {
	c := config(t, fullConfig, "PATRONI_ETCD3_PASSWORD=etcdgeheim", "PATRONI_ETCD3_USERNAME=u", "PATRONI_ETCD3_HOST=h")
	d, err := c.DCS()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("x", "config", c, "postgres", c.Postgres, "rest", c.RESTAPI, "ctl", c.Ctl, "etcd", *d.Etcd3)
	}
	for _, v := range []any{c, c.Postgres, c.RESTAPI, c.Ctl, *d.Etcd3} {
		fmt.Fprintf(&log, "%v %+v %#v\n", v, v, v)
	}
	if strings.Contains(log.String(), "geheim") {
		t.Errorf("a secret shows: %s", log.String())
	}
	if d.Etcd3.Password.Reveal() != "etcdgeheim" {
		t.Error("the password was lost")
	}
}

func TestADirectoryIsMergedInAlphabeticalOrder(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"10-base.yml":   "scope: a\nname: n\npostgresql: {data_dir: /a, listen: '*:1', parameters: {archive_mode: on}}\nctl: {insecure: true}\n",
		"20-over.yaml":  "scope: b\npostgresql: {data_dir: /b, parameters: {archive_command: x}}\nctl:\n",
		"30-ignored.md": "scope: c\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "40-dir.yml"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := patroni.ReadConfig(dir, []string{"PATRONI_POSTGRESQL_DATA_DIR=/env"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Scope != "b" || c.Name != "n" || c.Postgres.DataDir != "/env" || c.Postgres.Listen != "*:1" || c.Ctl.Insecure {
		t.Errorf("%+v", c)
	}
	if diff := cmp.Diff(map[string]string{"archive_mode": "on", "archive_command": "x"}, c.Postgres.Parameters); diff != "" {
		t.Error(diff)
	}
}

func TestTheEnvironmentOverridesTheFile(t *testing.T) {
	environ := []string{
		"PATRONI_SCOPE=robin", "PATRONI_NAME=pg9", "PATRONI_NAMESPACE=", "PATRONI_CTL_INSECURE=yes",
		"PATRONI_CTL_USERNAME=u", "PATRONI_CTL_PASSWORD=p",
		"PATRONI_POSTGRESQL_LISTEN=0.0.0.0:6000", "PATRONI_REPLICATION_USERNAME=r", "PATRONI_SUPERUSER_PASSWORD=s",
		"PATRONI_RESTAPI_CONNECT_ADDRESS=h:1", "HOME=/root",
	}
	c := config(t, fullConfig, environ...)
	got := []string{c.Scope, c.Name, c.Namespace, c.Ctl.Username, c.Postgres.Listen, c.RESTAPI.ConnectAddress,
		c.Postgres.Replication.Username, c.Postgres.Replication.SSLMode, c.Postgres.Superuser.Username, c.Postgres.Superuser.Password.Reveal()}
	want := []string{"robin", "pg9", "db", "u", "0.0.0.0:6000", "h:1", "r", "verify-full", "postgres", "s"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !c.Ctl.Insecure {
		t.Error("PATRONI_CTL_INSECURE was not read")
	}
}

func TestTheEnvironmentAloneIsEnough(t *testing.T) {
	c, err := patroni.ReadConfig("", []string{"PATRONI_SCOPE=batman", "PATRONI_NAME=pg1", "PATRONI_ETCD3_HOSTS=h1:2379, 'h2:2380'"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.DCS()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"http://h1:2379", "http://h2:2380"}, d.Etcd3.Endpoints); diff != "" {
		t.Error(diff)
	}
	if c.Source != "environment" || c.Namespace != "service" {
		t.Errorf("%s, namespace %s", c, c.Namespace)
	}
}

func TestPATRONI_CONFIGURATIONIsTheWholeConfiguration(t *testing.T) {
	c, err := patroni.ReadConfig("", []string{"PATRONI_CONFIGURATION=scope: doc\nname: n\n", "PATRONI_SCOPE=env"})
	if err != nil || c.Scope != "doc" {
		t.Errorf("scope %q, %v; Patroni does not override it", c.Scope, err)
	}
}

func TestAConfigurationThatCannotBeReadIsAnError(t *testing.T) {
	empty := t.TempDir()
	tests := []struct {
		name, path string
		environ    []string
		want       string
	}{
		{"no file", filepath.Join(empty, "x.yml"), nil, "no such file"},
		{"a directory without files", empty, nil, "holds no settings"},
		{"no path and nothing in the environment", "", []string{"PATRONI=1", "HOME=/"}, "no Patroni configuration"},
		{"a list", writeFile(t, "p.yml", "- a\n"), nil, "it is no mapping"},
		{"no YAML", writeFile(t, "p.yml", "a: [\n"), nil, "p.yml: "},
		{"a variable that is no list", writeFile(t, "p.yml", "scope: a\n"), []string{"PATRONI_ETCD3_HOSTS=a: b: [c"}, "PATRONI_ETCD3_HOSTS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := patroni.ReadConfig(tt.path, tt.environ)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one about %q", err, tt.want)
			}
		})
	}
	_, err := patroni.ReadConfig("", nil)
	if !errors.Is(err, patroni.ErrNoConfig) || finding.Hint(err) == "" {
		t.Errorf("error %v, hint %q", err, finding.Hint(err))
	}
}

func TestOddCornersOfTheIdentity(t *testing.T) {
	tests := []struct {
		name, yml string
		environ   []string
		want      [3]string // namespace, scope path, name
	}{
		{"the name under postgresql", "scope: a\npostgresql: {name: n}\n", nil, [3]string{"service", "a", "n"}},
		{"a Citus group", "scope: a\nname: n\ncitus: {group: 1, database: db}\n", nil, [3]string{"service", "a/1", "n"}},
		{"a Citus group without a database is none", "scope: a\nname: n\ncitus: {group: 1}\n", nil, [3]string{"service", "a", "n"}},
		{"a Citus group from the environment", "scope: a\nname: n\n", []string{"PATRONI_CITUS_GROUP=0", "PATRONI_CITUS_DATABASE=db"}, [3]string{"service", "a/0", "n"}},
		{"a namespace in the DCS section", "scope: a\nname: n\netcd3: {host: h}\n", []string{"PATRONI_ETCD3_NAMESPACE=ns"}, [3]string{"ns", "a", "n"}},
		{"a namespace of Kubernetes is another thing", "scope: a\nname: n\nkubernetes: {namespace: ns, labels: {a: b}}\n", nil, [3]string{"service", "a", "n"}},
		{"a numeric scope", "scope: 5\nname: 007\n", nil, [3]string{"service", "5", "7"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := config(t, tt.yml, tt.environ...)
			if got := [3]string{c.Namespace, c.ScopePath(), c.Name}; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTheEffectiveSettingsMergeBothConfigurations(t *testing.T) {
	c := config(t, `
scope: a
postgresql:
  data_dir: /local
  use_slots: true
  use_pg_rewind: false
  parameters: {archive_command: local, max_connections: 7, Work_Mem: 1GB}
  recovery_conf: {restore_command: local}
`)
	d, err := patroni.ParseDynamic(`{"postgresql":{"data_dir":"/dynamic","use_slots":false,"use_pg_rewind":true,
		"remove_data_directory_on_rewind_failure":true,
		"parameters":{"archive_mode":true,"archive_command":"dynamic","max_connections":100}}}`)
	if err != nil {
		t.Fatal(err)
	}
	p := c.Effective(d)
	want := map[string]string{"archive_mode": "on", "archive_command": "local", "max_connections": "100", "work_mem": "1GB"}
	if diff := cmp.Diff(want, p.Parameters); diff != "" {
		t.Error(diff)
	}
	if p.DataDir != "/local" || p.UseSlots || p.UsePgRewind || !p.RemoveDataDirectoryOnRewindFailure || p.RecoveryConf["restore_command"] != "local" {
		t.Errorf("%+v", p)
	}
}

func TestAStandbyClusterHasItsOwnMethodsAndCommands(t *testing.T) {
	c := config(t, "scope: a\npostgresql:\n  create_replica_methods: [x]\n  pgtender: {command: pgtender create-replica}\n  recovery_conf: {restore_command: local, recovery_end_command: e}\n")
	for doc, want := range map[string][]string{
		`{"standby_cluster":{"host":"h","create_replica_methods":["pgtender"],"restore_command":"theirs"}}`: {"pgtender"},
		`{"standby_cluster":{"host":"h","restore_command":"theirs"}}`:                                       {"basebackup"},
	} {
		d, err := patroni.ParseDynamic(doc)
		if err != nil {
			t.Fatal(err)
		}
		p := c.Effective(d)
		if diff := cmp.Diff(want, p.CreateReplicaMethods); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(map[string]string{"restore_command": "theirs", "recovery_end_command": "e"}, p.RecoveryConf); diff != "" {
			t.Error(diff)
		}
	}
}

func TestTheLocalAddressIsWherePatroniConnects(t *testing.T) {
	tests := []struct {
		name, yml, host string
		port            int
	}{
		{"every address", "listen: '*:5433'", "localhost", 5433},
		{"every IPv4 address", "listen: 0.0.0.0:5432", "localhost", 5432},
		{"loopback among others", "listen: '10.0.0.1, 127.0.0.1:5432'", "localhost", 5432},
		{"one address", "listen: 10.0.0.1:5434", "10.0.0.1", 5434},
		{"one IPv6 address", "listen: '[fd00::1]:5434'", "fd00::1", 5434},
		{"no port", "listen: 10.0.0.1", "10.0.0.1", 5432},
		{"nothing", "bin_dir: /x", "localhost", 5432},
		{"a socket directory", "listen: 10.0.0.1:1\n  use_unix_socket: true\n  parameters: {unix_socket_directories: 'rel, /run/pg'}", "/run/pg", 1},
		{"libpq's socket directory", "listen: 10.0.0.1:1\n  use_unix_socket: true", "", 1},
		{"no socket directory that would do", "listen: 10.0.0.1:1\n  use_unix_socket: true\n  parameters: {unix_socket_directories: ''}", "10.0.0.1", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			host, port := config(t, "scope: a\npostgresql:\n  "+tt.yml+"\n").Postgres.Local()
			if host != tt.host || port != tt.port {
				t.Errorf("got %q %d", host, port)
			}
		})
	}
}

func TestOldFormsOfTheConfigurationAreRead(t *testing.T) {
	c := config(t, "scope: a\npostgresql:\n  create_replica_method: [x]\n  superuser: {username: s}\n  replication: {username: r}\n")
	if c.Postgres.Superuser.Username != "s" || c.Postgres.Replication.Username != "r" || c.Postgres.CreateReplicaMethods[0] != "x" {
		t.Errorf("%+v", c.Postgres)
	}
	c = config(t, "scope: a\npostgresql:\n  authentication: {replication: {username: r}}\n  pg_rewind: {username: w}\n")
	if c.Postgres.Superuser.Username != "w" {
		t.Errorf("%+v", c.Postgres.Superuser)
	}
}
