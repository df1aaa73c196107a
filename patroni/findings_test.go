package patroni_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/patroni"
)

// goodConfig is a configuration with nothing to complain about; tests replace
// parts of it.
const goodConfig = `
scope: batman
name: pg1
etcd3: {host: h}
postgresql:
  data_dir: /data
  create_replica_methods: [pgtender, basebackup]
  pgtender: {command: pgtender create-replica, keep_data: true}
  recovery_conf: {restore_command: pgtender archive-get %f %p}
  parameters:
    archive_mode: on
    archive_command: pgtender archive-push %p
bootstrap: {}
`

func known(t *testing.T, doc string) patroni.Dynamic {
	t.Helper()
	d, err := patroni.ParseDynamic(doc)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestAGoodConfigurationHasNoFault(t *testing.T) {
	got := config(t, goodConfig).Findings(known(t, "{}"))
	want := []string{
		"ok: postgresql.create_replica_methods runs pgtender as pgtender",
		`ok: replicas fetch WAL with "pgtender archive-get %f %p"`,
		`ok: archive_mode is on and WAL is archived with "pgtender archive-push %p"`,
	}
	var lines []string
	for _, f := range got {
		lines = append(lines, f.String())
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}

func TestFaultsOfTheConfigurationAreFound(t *testing.T) {
	const methods, section = "create_replica_methods: [pgtender, basebackup]", "{command: pgtender create-replica, keep_data: true}"
	const recovery, bootstrap = "recovery_conf: {restore_command: pgtender archive-get %f %p}", "bootstrap: {}"
	tests := []struct {
		name, old, replacement, dynamic string
		severity                        finding.Severity
		want                            string
	}{
		{"no scope", "scope: batman", "", "", finding.Error, "has no scope"},
		{"no name", "name: pg1", "", "", finding.Error, "has no member name"},
		{"no DCS", "etcd3: {host: h}", "", "", finding.Error, "names no DCS"},
		{"an unsupported DCS", "etcd3: {host: h}", "raft: {self_addr: x}", "", finding.Error, "DCS is not supported"},
		{"two DCS", "etcd3: {host: h}", "etcd3: {host: h}\nconsul: {host: h}", "", finding.Warning, "has sections for consul, etcd3"},

		{"no methods", methods, "", "", finding.Warning, "postgresql.create_replica_methods is [basebackup]: new replicas are not built from the repository"},
		{"another tool's method", section, "{command: pgbackrest restore}", "", finding.Warning, "is [pgtender, basebackup]: new replicas are not built"},
		{"a method without its section", "  pgtender: " + section, "", "", finding.Error, `postgresql.pgtender.command is "pgtender", which does not run pgtender create-replica`},
		{"another sub-command", section, "{command: pgtender restore, keep_data: true}", "", finding.Error, "does not run pgtender create-replica"},
		{"shell syntax", section, "{command: 'cd / && pgtender create-replica', keep_data: true}", "", finding.Error, `contains "&&", but Patroni runs it without a shell`},
		{"a variable of the shell", section, "{command: 'pgtender create-replica --config $HOME/p.yml', keep_data: true}", "", finding.Error, `contains "$HOME/p.yml"`},
		{"a quote that is not closed", section, `{command: 'pgtender "create-replica', keep_data: true}`, "", finding.Error, "cannot be run: command has a quote that is not closed"},
		{"basebackup first", methods, "create_replica_methods: [basebackup, pgtender]", "", finding.Warning, "runs basebackup before pgtender"},
		{"no fallback", methods, "create_replica_methods: [pgtender]", "", finding.Info, "has nothing after pgtender"},
		{"no keep_data", section, "{command: pgtender create-replica}", "", finding.Warning, "method pgtender has no keep_data: reinit wipes"},
		{"no_params", section, "{command: pgtender create-replica, keep_data: true, no_params: true}", "", finding.Info, "method pgtender has no_params"},
		{"no_master", section, "{command: pgtender create-replica, keep_data: true, no_master: 1}", "", finding.Warning, "no_master, which Patroni 4 no longer knows"},
		{"a standby cluster's methods", "", "", `{"standby_cluster":{"host":"h","create_replica_methods":["x"]}}`, finding.Warning, "standby_cluster.create_replica_methods is [x]"},

		{"no slots", "", "", `{"postgresql":{"use_slots":false}}`, finding.Warning, "use_slots is off"},
		{"removal after a failed rewind", "  data_dir: /data", "  use_pg_rewind: true\n  remove_data_directory_on_rewind_failure: true", "", finding.Warning, "after a failed pg_rewind Patroni removes the data directory"},
		{"the hand-over on divergence", "  data_dir: /data", "  remove_data_directory_on_diverged_timelines: true", "", finding.OK, "a diverged member is handed to the replica methods with its data"},

		{"no restore_command", recovery, "", "", finding.Error, "replicas have no restore_command"},
		{"another tool's restore_command", recovery, "recovery_conf: {restore_command: cp /a/%f %p}", "", finding.Warning, `restore_command is "cp /a/%f %p"`},
		{"a restore_command with its placeholders exchanged", recovery, "recovery_conf: {restore_command: pgtender archive-get %p %f}", "", finding.Error, "%p before %f"},
		{"a restore_command without its placeholders", recovery, "recovery_conf: {restore_command: pgtender archive-get %f}", "", finding.Error, "lacks %f or %p"},
		{"recovery_conf replaced by parameters", "archive_mode: on", "archive_mode: on\n    recovery_target_timeline: latest", "", finding.Error, "recovery_conf's restore_command is not used, because postgresql.parameters holds recovery settings"},
		{"a restore_command among the parameters", recovery, "", `{"postgresql":{"parameters":{"restore_command":"/usr/bin/env X=1 pgtender archive-get %f %p"}}}`, finding.OK, "replicas fetch WAL with"},
		{"a delayed standby", recovery, "recovery_conf: {restore_command: pgtender archive-get %f %p, recovery_min_apply_delay: 1h}", "", finding.Info, "recovery_min_apply_delay is 1h"},

		{"archive_mode off", "archive_mode: on", "archive_mode: no", "", finding.Error, "archive_mode is off"},
		{"archive_mode not set", "archive_mode: on", "x: y", "", finding.Error, "archive_mode is not set"},
		{"archive_mode always", "archive_mode: on", "archive_mode: always", "", finding.OK, "archive_mode is always"},
		{"an archive_library", "archive_mode: on", "archive_mode: on\n    archive_library: basic_archive", "", finding.Error, `archive_library is "basic_archive"`},
		{"no archive_command", "archive_command: pgtender archive-push %p", "x: y", "", finding.Error, "archive_command is not set"},
		{"another tool's archive_command", "pgtender archive-push %p", "/bin/true", "", finding.Error, `archive_command is "/bin/true"`},
		{"another tool with a sub-command of the same name", "pgtender archive-push %p", "pgbackrest --stanza=main archive-push %p", "", finding.Error, "does not run pgtender archive-push"},
		{"a wrapper as archive_command", "pgtender archive-push %p", "/usr/local/bin/archive-wal %p", "", finding.Warning, "whether it runs pgtender archive-push cannot be seen"},
		{"pgtender by another name", "pgtender archive-push %p", "/opt/pgt archive-push %p", "", finding.Warning, "cannot be seen"},
		{"an archive_command that hides failures", "pgtender archive-push %p", "pgtender archive-push %p || true", "", finding.Error, "succeeds whatever happens"},
		{"an archive_command without %p", "archive-push %p", "archive-push", "", finding.Error, "lacks %p"},

		{"a bootstrap method without a command", bootstrap, "bootstrap: {method: pgtender, pgtender: {x: y}}", "", finding.Error, "Patroni runs initdb"},
		{"a bootstrap that loses its recovery settings", bootstrap, "bootstrap: {method: p, p: {command: pgtender bootstrap}}", "", finding.Error, "neither recovery_conf nor keep_existing_recovery_conf"},
		{"a bootstrap that keeps them", bootstrap, "bootstrap: {method: p, p: {command: pgtender bootstrap, keep_existing_recovery_conf: true}}", "", finding.OK, "bootstrap.p runs pgtender and keeps its recovery settings"},
		{"a bootstrap with both", bootstrap, "bootstrap: {method: p, p: {command: pgtender bootstrap, keep_existing_recovery_conf: true, recovery_conf: {restore_command: x}}}", "", finding.Warning, "recovery_conf wins"},
		{"a bootstrap that pauses", bootstrap, "bootstrap: {method: p, p: {command: pgtender bootstrap, recovery_conf: {restore_command: x, recovery_target_action: pause}}}", "", finding.Error, "recovery_target_action pause: Patroni waits for the end of recovery, which never comes"},
		{"a bootstrap that shuts down", bootstrap, "bootstrap: {method: p, p: {command: pgtender bootstrap, recovery_conf: {restore_command: x, recovery_target_action: shutdown}}}", "", finding.Error, "the server leaves by shutting down"},
		{"a bootstrap without restore_command", bootstrap, "bootstrap: {method: p, p: {command: pgtender bootstrap, recovery_conf: {recovery_target_action: promote}}}", "", finding.Error, "bootstrap.p.recovery_conf has no restore_command"},
		{"a bootstrap with no_params", bootstrap, "bootstrap: {method: p, p: {command: pgtender bootstrap, keep_existing_recovery_conf: true, no_params: true}}", "", finding.Info, "bootstrap.p has no_params"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			yml := goodConfig
			if tt.old != "" {
				if !strings.Contains(yml, tt.old) {
					t.Fatalf("the configuration has no %q", tt.old)
				}
				yml = strings.Replace(yml, tt.old, tt.replacement, 1)
			}
			if tt.dynamic == "" {
				tt.dynamic = "{}"
			}
			got := config(t, yml).Findings(known(t, tt.dynamic))
			for _, f := range got {
				if strings.Contains(f.Text, tt.want) {
					if f.Severity != tt.severity {
						t.Errorf("severity %s, want %s", f.Severity, tt.severity)
					}
					if f.Severity > finding.Info && f.Hint == "" {
						t.Errorf("no hint: %s", f)
					}
					return
				}
			}
			t.Errorf("nothing about %q in %v", tt.want, got)
		})
	}
}

func TestFindingsSayWhenTheDynamicConfigurationIsUnknown(t *testing.T) {
	yml := strings.Replace(goodConfig, "archive_mode: on", "archive_mode: off", 1)
	for _, f := range config(t, yml).Findings(patroni.Dynamic{}) {
		if f.Severity == finding.Error && !strings.Contains(f.Hint, "could not be read and may say otherwise") {
			t.Errorf("%s", f)
		}
	}
}

func TestAnotherToolsBootstrapIsNoneOfOurBusiness(t *testing.T) {
	yml := strings.Replace(goodConfig, "bootstrap: {}", "bootstrap: {method: p, p: {command: pgbackrest restore}}", 1)
	if got := finding.Worst(config(t, yml).Findings(known(t, "{}"))); got > finding.Info {
		t.Errorf("severity %s", got)
	}
}

func TestCommandsAreSplitLikeShlex(t *testing.T) {
	tests := []struct {
		command string
		want    []string
	}{
		{"", nil},
		{"  a  b\tc\n", []string{"a", "b", "c"}},
		{`a 'b c' "d e"f`, []string{"a", "b c", "d ef"}},
		{`a\ b 'c\d' "e\"f\\g\h"`, []string{"a b", `c\d`, `e"f\g\h`}},
		{`'' ""`, []string{"", ""}},
		{`a#b`, []string{"a#b"}},
	}
	for _, tt := range tests {
		got, err := patroni.SplitCommand(tt.command)
		if err != nil {
			t.Errorf("%s: %v", tt.command, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.command, diff)
		}
	}
	for _, bad := range []string{`a 'b`, `a "b`, `a \`, `a "b\`} {
		if got, err := patroni.SplitCommand(bad); err == nil {
			t.Errorf("%s: %q", bad, got)
		}
	}
}
