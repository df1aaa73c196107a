package patroni

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgtender/pgtender/internal/finding"
)

// Findings says what this member's configuration does for pgtender and where
// it works against it. d is the dynamic configuration ([Cluster.Dynamic]);
// where it is not Known, what only it could say is judged by the local one.
func (c Config) Findings(d Dynamic) []finding.Finding {
	var f findings
	p := c.Effective(d)
	f.identity(c)
	list := "postgresql.create_replica_methods"
	if d.StandbyCluster.Enabled() {
		list = "standby_cluster.create_replica_methods"
	}
	f.methods(list, p.CreateReplicaMethods, p)
	f.rebuild(p)
	f.restoreCommand(p)
	f.archiving(p)
	f.bootstrap(c.Bootstrap)
	if !d.Known {
		for i := range f {
			if f[i].Severity > finding.Info {
				f[i].Hint = strings.TrimPrefix(f[i].Hint+"; the dynamic configuration could not be read and may say otherwise", "; ")
			}
		}
	}
	return f
}

type findings []finding.Finding

func (f *findings) add(s finding.Severity, hint, format string, args ...any) {
	*f = append(*f, finding.Finding{Severity: s, Text: fmt.Sprintf(format, args...), Hint: hint})
}

// identity checks what names the cluster and its DCS.
func (f *findings) identity(c Config) {
	if c.Scope == "" {
		f.add(finding.Error, "set scope, or name the cluster in pgtender's own configuration", "%s has no scope", c.Source)
	}
	if c.Name == "" {
		f.add(finding.Error, "set name, or dcs.member in pgtender's own configuration: PATRONI_NAME is not passed on to commands", "%s has no member name", c.Source)
	}
	if _, err := c.DCS(); err != nil {
		f.add(finding.Error, finding.Hint(err), "%v", err)
	} else if kinds := c.dcsSections(); len(kinds) > 1 {
		f.add(finding.Warning, "remove the sections that are not meant",
			"%s has sections for %s: Patroni uses the first of them whose client library is installed, pgtender uses %s", c.Source, strings.Join(kinds, ", "), kinds[0])
	}
}

// methods checks one list of replica methods. list is the setting's name.
func (f *findings) methods(list string, methods []string, p Postgres) {
	i := slices.IndexFunc(methods, func(name string) bool { return runs(p.Methods[name].Command, "") })
	if i < 0 {
		f.add(finding.Warning, "put an entry for pgtender before basebackup: create_replica_methods: [pgtender, basebackup], and a section pgtender with command: pgtender create-replica and keep_data: true",
			"%s is [%s]: new replicas are not built from the repository", list, strings.Join(methods, ", "))
		return
	}
	m := p.Methods[methods[i]]
	before := len(*f)
	f.command(fmt.Sprintf("postgresql.%s.command", m.Name), m.Command, "create-replica")
	if i > 0 {
		f.add(finding.Warning, "put "+m.Name+" first",
			"%s runs %s before %s: what it leaves in the data directory, or has wiped, decides what pgtender finds", list, strings.Join(methods[:i], ", "), m.Name)
	}
	if !m.KeepData {
		f.add(finding.Warning, "set keep_data: true in section "+m.Name,
			"method %s has no keep_data: reinit wipes the old data directory before pgtender could reuse its pages", m.Name)
	}
	if m.NoMaster && !m.NoLeader {
		f.add(finding.Warning, "write no_leader: true",
			"method %s has no_master, which Patroni 4 no longer knows", m.Name)
	}
	if len(*f) == before {
		f.add(finding.OK, "", "%s runs pgtender as %s", list, m.Name)
	}
	f.passed(m)
	if i == len(methods)-1 {
		f.add(finding.Info, "add basebackup as the last method if a replica from a running member is better than none",
			"%s has nothing after %s: while the repository is empty no replica can be built", list, m.Name)
	}
}

// passed tells what Patroni passes to the method, where that is not what one
// would expect.
func (f *findings) passed(m Method) {
	if m.NoParams {
		f.add(finding.Info, "nothing to do; without no_params pgtender also learns which member Patroni would clone from",
			"method %s has no_params: Patroni tells the command nothing, and pgtender takes the data directory from patroni.yml", m.Name)
	}
}

// command checks a command that Patroni runs without a shell.
func (f *findings) command(setting, command, sub string) {
	if _, err := SplitCommand(command); err != nil {
		f.add(finding.Error, "correct the quotes", "%s cannot be run: %v", setting, err)
		return
	}
	if !runs(command, sub) {
		f.add(finding.Error, "write command: pgtender "+sub, "%s is %q, which does not run pgtender %s", setting, command, sub)
	}
	if token := needsShell(command); token != "" {
		f.add(finding.Error, "give plain words and absolute paths", "%s contains %q, but Patroni runs it without a shell", setting, token)
	}
}

// rebuild checks what Patroni does to a data directory that catchup could use.
func (f *findings) rebuild(p Postgres) {
	if p.RemoveDataDirectoryOnRewindFailure && p.UsePgRewind {
		f.add(finding.Warning, "set remove_data_directory_on_rewind_failure: false and use patronictl reinit, which keeps the directory for pgtender",
			"remove_data_directory_on_rewind_failure is on: after a failed pg_rewind Patroni removes the data directory, keep_data or not")
	}
	if !p.UsePgRewind && p.RemoveDataDirectoryOnDivergedTimeline {
		f.add(finding.OK, "", "a diverged member is handed to the replica methods with its data (remove_data_directory_on_diverged_timelines without use_pg_rewind)")
	}
	if !p.UseSlots {
		f.add(finding.Warning, "set use_slots: true",
			"postgresql.use_slots is off: the leader does not keep the WAL that a member being rebuilt will need")
	}
}

// restoreCommand checks what replicas fetch WAL with. What pgtender itself
// would write into the new replica is discarded by Patroni.
func (f *findings) restoreCommand(p Postgres) {
	if len(p.RecoveryReplaced) > 0 {
		f.add(finding.Error, "put all recovery settings into one of the two places",
			"postgresql.recovery_conf's %s not used, because postgresql.parameters holds recovery settings and replaces the whole section", isAre(p.RecoveryReplaced))
	}
	command := p.RecoveryConf["restore_command"]
	switch {
	case command == "":
		f.add(finding.Error, "set postgresql.recovery_conf.restore_command to pgtender archive-get %f %p",
			"replicas have no restore_command: one that is behind what the leader keeps cannot follow; Patroni discards what pgtender would write")
	case !runs(command, "archive-get"):
		f.add(finding.Warning, "set it to pgtender archive-get %f %p", "restore_command is %q, which does not run pgtender archive-get", command)
	case !strings.Contains(command, "%f") || !strings.Contains(command, "%p"):
		f.add(finding.Error, "write pgtender archive-get %f %p", "restore_command %q lacks %%f or %%p", command)
	case strings.Index(command, "%p") < strings.Index(command, "%f"):
		f.add(finding.Error, "write pgtender archive-get %f %p", "restore_command %q has %%p before %%f", command)
	default:
		f.add(finding.OK, "", "replicas fetch WAL with %q", command)
	}
	if action := p.RecoveryConf["recovery_min_apply_delay"]; action != "" && action != "0" {
		f.add(finding.Info, "tag the member nobackup: true if its backups would come too late", "recovery_min_apply_delay is %s: this member lags on purpose", action)
	}
}

// archiving checks that segments reach the repository.
func (f *findings) archiving(p Postgres) {
	mode, command := strings.ToLower(p.Parameters["archive_mode"]), p.Parameters["archive_command"]
	if b, ok := parseBool(mode); ok && mode != "on" && mode != "off" {
		mode = map[bool]string{true: "on", false: "off"}[b]
	}
	switch {
	case mode == "" || mode == "off":
		f.add(finding.Error, "set postgresql.parameters.archive_mode to on or always and restart",
			"archive_mode is %s: no WAL is archived, and no backup can be completed", orUnset(mode))
	case p.Parameters["archive_library"] != "":
		f.add(finding.Error, "remove archive_library", "archive_library is %q, so archive_command is not used", p.Parameters["archive_library"])
	case command == "":
		f.add(finding.Error, "set postgresql.parameters.archive_command to pgtender archive-push %p", "archive_command is not set")
	case hidesFailure(command):
		f.add(finding.Error, "set it to pgtender archive-push %p alone", "archive_command %q succeeds whatever happens: WAL that could not be archived is lost", command)
	case RunnerOf(command) == Other:
		f.add(finding.Error, "set it to pgtender archive-push %p", "archive_command is %q, which does not run pgtender archive-push", command)
	case RunnerOf(command) == Unclear:
		f.add(finding.Warning, "if it does, let it end with pgtender's exit status; whether the leader's last segment is in the repository is said below. Else set it to pgtender archive-push %p",
			"archive_command is %q: whether it runs pgtender archive-push cannot be seen", command)
	case !strings.Contains(command, "%p"):
		f.add(finding.Error, "write pgtender archive-push %p", "archive_command %q lacks %%p", command)
	default:
		f.add(finding.OK, "", "archive_mode is %s and WAL is archived with %q", mode, command)
	}
}

// bootstrap checks a custom bootstrap that runs pgtender.
func (f *findings) bootstrap(b Bootstrap) {
	if !b.Custom {
		if b.Method != "initdb" {
			f.add(finding.Error, "give bootstrap."+b.Method+" a command",
				"bootstrap.method is %s, which has no section with a command: Patroni runs initdb, and the cluster begins empty", b.Method)
		}
		return
	}
	if !runs(b.Command, "") {
		return
	}
	before := len(*f)
	section := "bootstrap." + b.Method
	f.command(section+".command", b.Command, "bootstrap")
	switch {
	case !b.HasRecoveryConf && !b.KeepRecoveryConf:
		f.add(finding.Error, "set "+section+".keep_existing_recovery_conf: true",
			"%s has neither recovery_conf nor keep_existing_recovery_conf: Patroni removes the recovery settings, and the restored backup starts without fetching WAL and without a new timeline", section)
	case b.HasRecoveryConf && b.KeepRecoveryConf:
		f.add(finding.Warning, "keep one of the two; keep_existing_recovery_conf lets pgtender set the target",
			"%s has both recovery_conf and keep_existing_recovery_conf: recovery_conf wins", section)
	}
	if action := b.RecoveryConf["recovery_target_action"]; action != "" && action != "promote" {
		f.add(finding.Error, "set recovery_target_action: promote",
			"%s.recovery_conf has recovery_target_action %s: Patroni waits for the end of recovery, which %s", section, action, neverEnds(action))
	}
	if b.HasRecoveryConf && b.RecoveryConf["restore_command"] == "" {
		f.add(finding.Error, "add restore_command: pgtender archive-get %f %p", "%s.recovery_conf has no restore_command", section)
	}
	if len(*f) == before {
		f.add(finding.OK, "", "%s runs pgtender and keeps its recovery settings", section)
	}
	if b.NoParams {
		f.add(finding.Info, "nothing to do", "%s has no_params: Patroni tells the command nothing, and pgtender takes the data directory from patroni.yml", section)
	}
}

func neverEnds(action string) string {
	if action == "shutdown" {
		return "the server leaves by shutting down"
	}
	return "never comes"
}

func isAre(names []string) string {
	if len(names) == 1 {
		return names[0] + " is"
	}
	return strings.Join(names, ", ") + " are"
}

func orUnset(s string) string {
	if s == "" {
		return "not set"
	}
	return s
}
