package patroni

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Postgres is the postgresql section.
type Postgres struct {
	DataDir        string
	BinDir         string // "" means the search path
	ConfigDir      string // DataDir unless given
	Listen         string
	ConnectAddress string
	PGPass         string // "" means pgpass in the home directory of Patroni's user

	Parameters map[string]string // by lower-case name
	// RecoveryConf is what replicas recover with. See RecoveryReplaced.
	RecoveryConf map[string]string
	// RecoveryReplaced lists the settings of the recovery_conf section that
	// are not used, because parameters holds a recovery setting and so
	// replaces the section as a whole (config.py:_adjust_recovery_parameters).
	RecoveryReplaced []string

	CreateReplicaMethods []string // [basebackup] unless given
	Methods              map[string]Method

	UseSlots                              bool
	UsePgRewind                           bool
	RemoveDataDirectoryOnRewindFailure    bool
	RemoveDataDirectoryOnDivergedTimeline bool
	UseUnixSocket                         bool

	Superuser, Replication, Rewind Auth
}

// Method is one create_replica_methods entry with its section.
type Method struct {
	Name    string
	Section bool   // the section is there
	Command string // the method's name unless given
	// KeepData: the data directory is handed over as it is. NoParams: the
	// command is told nothing, not even the directory. NoLeader: it may run
	// while the cluster has no leader.
	KeepData, NoParams, NoLeader bool
	NoMaster                     bool // the name of NoLeader that 4.x no longer knows
}

// Auth is how Patroni logs in as one of its users.
type Auth struct {
	Username       string
	Password       Secret
	SSLMode        string
	SSLCert        string
	SSLKey         string
	SSLPassword    Secret
	SSLRootCert    string
	SSLCRL         string
	SSLCRLDir      string
	GSSEncMode     string
	ChannelBinding string
	SSLNegotiation string
}

// recoverySettings are the parameters that belong into recovery_conf
// (available_parameters/0_postgres.yml, recovery_parameters).
var recoverySettings = strings.Fields(`archive_cleanup_command pause_at_recovery_target primary_conninfo
	primary_slot_name promote_trigger_file recovery_end_command recovery_min_apply_delay recovery_target
	recovery_target_action recovery_target_inclusive recovery_target_lsn recovery_target_name recovery_target_time
	recovery_target_timeline recovery_target_xid restore_command standby_mode trigger_file`)

// globalOnly are the parameters that the local configuration cannot set
// (config.py:_process_postgresql_parameters, ConfigHandler.CMDLINE_OPTIONS).
var globalOnly = strings.Fields(`listen_addresses port cluster_name wal_level hot_standby max_connections
	max_wal_senders wal_keep_segments wal_keep_size max_prepared_transactions max_locks_per_transaction
	track_commit_timestamp max_replication_slots max_worker_processes wal_log_hints`)

// neverGlobal are the settings that the dynamic configuration cannot set
// (config.py:_safe_copy_dynamic_configuration).
var neverGlobal = []string{"connect_address", "proxy_address", "listen", "config_dir", "data_dir", "pgpass", "authentication"}

// Effective gives the postgresql section as this member uses it: the dynamic
// configuration's, overridden key by key by the local one. parameters are
// merged, the few that all members must share come from the dynamic one alone,
// and so does use_slots. In a standby cluster, standby_cluster's settings come
// on top.
func (c Config) Effective(d Dynamic) Postgres {
	local := c.raw.Sub("postgresql")
	merged := Object{}
	parameters := map[string]string{}
	for key, value := range d.postgresql {
		if !slices.Contains(neverGlobal, key) {
			merged[key] = value
		}
	}
	for name, value := range gucs(d.postgresql.Sub("parameters")) {
		parameters[name] = value
	}
	for key, value := range local {
		if key != "use_slots" {
			merged[key] = value
		}
	}
	for name, value := range gucs(local.Sub("parameters")) {
		if !slices.Contains(globalOnly, name) {
			parameters[name] = value
		}
	}
	p := postgresFrom(merged, parameters)
	if d.StandbyCluster.Enabled() {
		p.standby(d.StandbyCluster, merged)
	}
	return p
}

func postgresFrom(o Object, parameters map[string]string) Postgres {
	auth := o.Sub("authentication")
	if o["authentication"] == nil {
		auth = o // the oldest form has the users beside the other settings
	}
	p := Postgres{
		DataDir: o.Text("data_dir"), BinDir: o.Text("bin_dir"), ConfigDir: o.Text("config_dir"),
		Listen: o.Text("listen"), ConnectAddress: o.Text("connect_address"), PGPass: o.Text("pgpass"),
		Parameters:                            parameters,
		UseSlots:                              o.booleanOr("use_slots", true),
		UsePgRewind:                           truthy(o["use_pg_rewind"]),
		RemoveDataDirectoryOnRewindFailure:    truthy(o["remove_data_directory_on_rewind_failure"]),
		RemoveDataDirectoryOnDivergedTimeline: truthy(o["remove_data_directory_on_diverged_timelines"]),
		UseUnixSocket:                         truthy(o["use_unix_socket"]),
		Superuser:                             authFrom(auth.Sub("superuser")),
		Replication:                           authFrom(auth.Sub("replication")),
		Rewind:                                authFrom(auth.Sub("rewind")),
	}
	if p.ConfigDir == "" {
		p.ConfigDir = p.DataDir
	}
	if auth.Sub("superuser") == nil {
		p.Superuser = authFrom(o.Sub("pg_rewind"))
	}
	p.recovery(o.Sub("recovery_conf"))
	methods := methodList(o["create_replica_methods"])
	if len(methods) == 0 {
		methods = methodList(o["create_replica_method"])
	}
	p.useMethods(methods, o)
	return p
}

func (p *Postgres) recovery(section Object) {
	own := gucs(section)
	instead := map[string]string{}
	for _, name := range recoverySettings {
		if value, ok := p.Parameters[name]; ok {
			instead[name] = value
		}
	}
	p.RecoveryConf = own
	if len(instead) == 0 {
		return
	}
	p.RecoveryConf = instead
	for name := range own {
		if own[name] != instead[name] {
			p.RecoveryReplaced = append(p.RecoveryReplaced, name)
		}
	}
	slices.Sort(p.RecoveryReplaced)
}

// useMethods sets the list in force and describes its entries.
func (p *Postgres) useMethods(methods []string, o Object) {
	if len(methods) == 0 {
		methods = []string{"basebackup"}
	}
	p.CreateReplicaMethods = methods
	p.Methods = make(map[string]Method, len(methods))
	for _, name := range methods {
		s := o.Sub(name)
		m := Method{
			Name: name, Section: o[name] != nil, Command: s.Text("command"),
			KeepData: truthy(s["keep_data"]), NoParams: truthy(s["no_params"]),
			NoLeader: truthy(s["no_leader"]), NoMaster: truthy(s["no_master"]),
		}
		if m.Command == "" {
			m.Command = name
		}
		p.Methods[name] = m
	}
}

// standby lays standby_cluster's settings over p: its list of methods is the
// one in use, even if empty (ha.py:Ha.clone takes every member for remote), and
// its commands win over recovery_conf.
func (p *Postgres) standby(s StandbyCluster, o Object) {
	p.useMethods(s.CreateReplicaMethods, o)
	conf := make(map[string]string, len(p.RecoveryConf)+2)
	for name, value := range p.RecoveryConf {
		conf[name] = value
	}
	for name, value := range map[string]string{"restore_command": s.RestoreCommand, "archive_cleanup_command": s.ArchiveCleanupCommand} {
		if value != "" {
			conf[name] = value
		}
	}
	p.RecoveryConf = conf
}

// gucs gives a section of parameters: names in lower case, booleans as
// PostgreSQL spells them.
func gucs(o Object) map[string]string {
	out := make(map[string]string, len(o))
	for name, value := range o {
		switch value := value.(type) {
		case nil, map[string]any, []any:
			continue
		case bool:
			out[strings.ToLower(name)] = "off"
			if value {
				out[strings.ToLower(name)] = "on"
			}
		default:
			out[strings.ToLower(name)] = scalarText(value)
		}
	}
	return out
}

func authFrom(o Object) Auth {
	return Auth{
		Username: o.Text("username"), Password: Secret(o.Text("password")),
		SSLMode: o.Text("sslmode"), SSLCert: o.Text("sslcert"), SSLKey: o.Text("sslkey"),
		SSLPassword: Secret(o.Text("sslpassword")), SSLRootCert: o.Text("sslrootcert"),
		SSLCRL: o.Text("sslcrl"), SSLCRLDir: o.Text("sslcrldir"), GSSEncMode: o.Text("gssencmode"),
		ChannelBinding: o.Text("channel_binding"), SSLNegotiation: o.Text("sslnegotiation"),
	}
}

// Local gives the address at which this member's server is reached from its own
// machine, host "" meaning libpq's default socket directory
// (config.py:ConfigHandler.resolve_connection_addresses).
func (p Postgres) Local() (host string, port int) {
	addresses, port := p.Listen, defaultPort
	if i := strings.LastIndexByte(p.Listen, ':'); i >= 0 && !strings.HasSuffix(p.Listen, "]") {
		if n, err := strconv.ParseUint(p.Listen[i+1:], 10, 16); err == nil {
			addresses, port = p.Listen[:i], int(n)
		}
	}
	tcp := localTCP(addresses)
	if !p.UseUnixSocket {
		return tcp, port
	}
	directories, ok := p.Parameters["unix_socket_directories"]
	if !ok {
		return "", port
	}
	for _, dir := range strings.Split(directories, ",") {
		if dir = strings.TrimSpace(dir); filepath.IsAbs(dir) {
			return dir, port
		}
	}
	return tcp, port
}

func localTCP(addresses string) string {
	first := ""
	for i, a := range strings.Split(addresses, ",") {
		a = strings.Trim(strings.TrimSpace(a), "[]")
		switch strings.ToLower(a) {
		case "", "*", "localhost", "0.0.0.0", "127.0.0.1":
			return "localhost"
		}
		if i == 0 {
			first = a
		}
	}
	return first
}

// Bootstrap is how the cluster's first member comes to be.
type Bootstrap struct {
	Method string // initdb unless given
	// Custom: the method has a section with a command, so that it runs. Without
	// one Patroni falls back to initdb.
	Custom   bool
	Command  string
	NoParams bool
	// KeepRecoveryConf: recovery settings and signal files that the command
	// leaves behind are kept. RecoveryConf, if HasRecoveryConf, replaces them.
	KeepRecoveryConf bool
	HasRecoveryConf  bool
	RecoveryConf     map[string]string

	DCS Dynamic // bootstrap.dcs: the first dynamic configuration, used once
}

func bootstrapFrom(o Object) Bootstrap {
	b := Bootstrap{Method: o.Text("method"), DCS: dynamicFrom(o.Sub("dcs"))}
	if b.Method == "" {
		b.Method = "initdb"
	}
	s := o.Sub(b.Method)
	_, hasCommand := s["command"]
	b.Custom = b.Method != "initdb" && hasCommand
	if !b.Custom {
		return b
	}
	_, b.HasRecoveryConf = s["recovery_conf"]
	b.Command, b.NoParams = s.Text("command"), truthy(s["no_params"])
	b.KeepRecoveryConf = truthy(s["keep_existing_recovery_conf"])
	b.RecoveryConf = gucs(s.Sub("recovery_conf"))
	return b
}
