// Package config reads pgtender.yml. Decoding is strict: an unknown or doubled
// key is an error that names the line and the key. Every setting can also come
// from the environment, which wins over the file, so that a container needs no
// file at all: the variable is PGTENDER_ and the key's path in upper case,
// joined by underscores (s3.path_style is PGTENDER_S3_PATH_STYLE).
//
// On a Patroni node two lines are enough:
//
//	patroni: /etc/patroni/patroni.yml
//	repository: s3://bucket/prefix
//
// Only cmd imports this package: it passes plain option structs on.
package config

import (
	"time"
)

// DefaultPath is read when neither --config nor PGTENDER_CONFIG names a file.
const DefaultPath = "/etc/pgtender/pgtender.yml"

// Config is everything that can be configured. The comment of each field is
// its manual.
type Config struct {
	// Patroni is the path of patroni.yml: a file, or a directory whose *.yml
	// files Patroni merges. Scope, namespace, member name, DCS, data directory,
	// ports and users come from there.
	Patroni string `yaml:"patroni"`

	// Repository is the URL of the place that keeps backups and WAL:
	// file:///srv/pgtender or s3://bucket/prefix. All members of the cluster
	// must see the same place.
	Repository string `yaml:"repository"`

	// Cluster names the cluster where no patroni.yml does: SCOPE, or
	// SCOPE/SYSTEM_IDENTIFIER where the repository holds several incarnations
	// of one scope. A Citus group is SCOPE+GROUP.
	Cluster string `yaml:"cluster"`

	// DataDir is PostgreSQL's data directory, where it differs from
	// patroni.yml's postgresql.data_dir or no patroni.yml is there.
	DataDir string `yaml:"data_dir"`

	DCS     DCS     `yaml:"dcs"`
	Server  Server  `yaml:"server"`
	S3      S3      `yaml:"s3"`
	File    File    `yaml:"file"`
	Backup  Backup  `yaml:"backup"`
	Restore Restore `yaml:"restore"`
	Archive Archive `yaml:"archive"`
	Receive Receive `yaml:"receive"`
	Agent   Agent   `yaml:"agent"`
	Expire  Expire  `yaml:"expire"`
	Verify  Verify  `yaml:"verify"`
	Watch   Watch   `yaml:"watch"`
	Log     Log     `yaml:"log"`
}

// DCS says where the DCS is, for deployments that configure Patroni by
// environment variables alone (which Patroni does not pass on to the commands
// it runs). Left out, patroni.yml decides.
type DCS struct {
	// Type is etcd3 or consul.
	Type string `yaml:"type"`
	// Hosts are host:port pairs; for Consul the first one counts.
	Hosts []string `yaml:"hosts"`
	// Protocol is http (the default) or https.
	Protocol string `yaml:"protocol"`
	// Namespace is Patroni's namespace, service by default.
	Namespace string `yaml:"namespace"`
	// Member is this node's Patroni member name.
	Member string `yaml:"member"`
	// Username and PasswordFile authenticate to etcd. The file holds nothing
	// but the password.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	// TokenFile holds a Consul ACL token.
	TokenFile string `yaml:"token_file"`
	// CACert, Cert and Key are PEM files for TLS.
	CACert string `yaml:"cacert"`
	Cert   string `yaml:"cert"`
	Key    string `yaml:"key"`
}

// Server says whom to log in as on the cluster's servers, for deployments
// without a patroni.yml that says so. Passwords come from libpq's password file.
type Server struct {
	// User is a superuser. Default: the operating system's user.
	User string `yaml:"user"`
	// ReplicationUser has the REPLICATION attribute. Default: User.
	ReplicationUser string `yaml:"replication_user"`
}

// S3 refines an s3:// repository. Credentials come from the usual chain:
// environment, shared files, web identity, instance role.
type S3 struct {
	// Endpoint is the URL of a server other than AWS.
	Endpoint string `yaml:"endpoint"`
	// Region of the bucket.
	Region string `yaml:"region"`
	// PathStyle puts the bucket into the path instead of the host name, which
	// most servers other than AWS want. It is on by default when Endpoint is
	// set.
	PathStyle *bool `yaml:"path_style"`
	// CAFile is a PEM file of certificate authorities to trust.
	CAFile string `yaml:"ca_file"`
	// CredentialsFile has the form of ~/.aws/credentials, and wins over the
	// chain.
	CredentialsFile string `yaml:"credentials_file"`
	// Profile selects one of the shared configuration files' profiles.
	Profile string `yaml:"profile"`
	// WebIdentityTokenFile and RoleARN exchange a token, as Kubernetes puts into a
	// file, for credentials of a role. The environment does the same
	// (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN) where it reaches the command;
	// these win over every other credentials. STSEndpoint is the URL of a token
	// service other than AWS.
	WebIdentityTokenFile string `yaml:"web_identity_token_file"`
	RoleARN              string `yaml:"role_arn"`
	STSEndpoint          string `yaml:"sts_endpoint"`
	// ObjectLock is GOVERNANCE or COMPLIANCE, in a bucket made with object lock:
	// nobody can remove or replace an object for ObjectLockFor (such as 30d).
	// What expire removes is hidden at once; a lifecycle rule for old versions
	// gives the space back after that. Markers and the chunks of receive are not
	// locked.
	ObjectLock    string   `yaml:"object_lock"`
	ObjectLockFor Duration `yaml:"object_lock_for"`
	// StorageClass of new objects, such as STANDARD_IA.
	StorageClass string `yaml:"storage_class"`
	// SSE is AES256 or aws:kms; KMSKeyID names the key for the latter.
	SSE      string `yaml:"sse"`
	KMSKeyID string `yaml:"kms_key_id"`
	// RetryBudget bounds the retries of one request, waits included.
	RetryBudget Duration `yaml:"retry_budget"`
}

// File refines a file:// repository.
type File struct {
	// GroupWritable makes directories 0770 and files 0660 instead of 0750 and
	// 0640, for members that share the directory under different users of one
	// group.
	GroupWritable bool `yaml:"group_writable"`
}

// Backup settings.
type Backup struct {
	// Leader says whether the leader may be the source: allow (when no
	// replica can be; the default), never, only.
	Leader string `yaml:"leader"`
	// MaxLag is how far, in bytes of WAL, a replica may be behind the leader
	// and still be the source. Default 256MB.
	MaxLag Bytes `yaml:"max_lag"`
	// Workers is the number of parallel readers and compressors. Default: the
	// number of processors, at most 8.
	Workers Count `yaml:"workers"`
	// MaxRate bounds what is read from the data directory, in bytes per
	// second. Default: unbounded.
	MaxRate Bytes `yaml:"max_rate"`
	// Compression is zstd (default) or none; Level is zstd's (default 1).
	Compression string `yaml:"compression"`
	Level       Count  `yaml:"level"`
	// ArchiveTimeout is how long a finished copy waits for its WAL to reach
	// the archive before the command gives up. Default 10m.
	ArchiveTimeout Duration `yaml:"archive_timeout"`
	// Checkpoint is fast (default) or spread.
	Checkpoint string `yaml:"checkpoint"`
	// FullFallback says whether a full backup may stand in where an incremental
	// one is not possible: allow (default), never, or window: only within
	// FullWindow. Otherwise the command fails and says why. The first backup of
	// a cluster, and --kind full, are always taken.
	FullFallback string `yaml:"full_fallback"`
	// FullWindow is a time of day in the host's time zone, such as 22:00-05:00.
	FullWindow Window `yaml:"full_window"`
	// SyntheticAfter and SyntheticShare say when an incremental backup is
	// followed by a synthetic full one, made in the repository, so that older
	// backups can expire: when the oldest backup that it leans on is so old; or
	// when a full backup is less than so many percent of all the stored bytes
	// that it leans on. 0 is never. Default 0 and 50.
	SyntheticAfter Duration `yaml:"synthetic_after"`
	SyntheticShare Count    `yaml:"synthetic_share"`
}

// Restore settings, for restore, create-replica and bootstrap alike.
type Restore struct {
	// Workers is the number of parallel readers and writers. Default: the
	// number of processors, at most 8.
	Workers Count `yaml:"workers"`
	// MaxRate bounds what is read from the repository, in bytes per second.
	// Default: unbounded.
	MaxRate Bytes `yaml:"max_rate"`
}

// Archive settings. How long archive-get tries follows from what a failure
// would do: see its help.
type Archive struct {
	// PushTimeout bounds one archive-push; PostgreSQL tries again. Default 5m.
	PushTimeout Duration `yaml:"push_timeout"`
	// Workers is how many segments are archived, or fetched ahead, at the same
	// time. Default 4.
	Workers Count `yaml:"workers"`
	// PushAhead is how many bytes of segments that wait behind the one that
	// PostgreSQL asks for are archived along with it. Default 512MB; 0 archives
	// nothing ahead.
	PushAhead Bytes `yaml:"push_ahead"`
	// Prefetch is how many bytes of segments are fetched ahead of a recovering
	// server, into a folder in pg_wal. Default 128MB; 0 fetches nothing ahead.
	Prefetch Bytes `yaml:"prefetch"`
	// DCSTimeout is how long archive-push and archive-get ask the DCS about
	// ownership, leadership and history before they go on without: a DCS
	// outage never stops archiving. Default 5s.
	DCSTimeout Duration `yaml:"dcs_timeout"`
}

// Watch settings: the agent looks at its own member, and what it does about one
// that Patroni will not bring back.
type Watch struct {
	// Mode is off (default); report: a replica that fell behind the leader's
	// WAL, diverged or hangs in "starting" is logged; or rebuild: the plan is
	// logged too, and the member rebuilt through Patroni, one of the cluster at
	// a time and never the last synchronous standby. Rebuild wants
	// create-replica with keep_data among Patroni's create_replica_methods.
	Mode string `yaml:"mode"`
	// Patience is how long a running replica may stand still. Default 5m.
	Patience Duration `yaml:"patience"`
	// StartPatience is how long a starting server may make no progress.
	// Default 30m.
	StartPatience Duration `yaml:"start_patience"`
	// Again is the shortest time between two rebuilds of this member. Default
	// 6h.
	Again Duration `yaml:"again"`
	// Spacing is the shortest time between rebuilds of two members. Default
	// 15m.
	Spacing Duration `yaml:"spacing"`
	// Settled is how long the leader must have led. Default 2m.
	Settled Duration `yaml:"settled"`
}

// Agent settings. The agent reads them when it starts.
type Agent struct {
	// Socket is where the agent listens, and where archive-push and archive-get
	// look for it; its folder must belong to PostgreSQL's user. Where several
	// clusters have members on one machine, each needs another one. Empty: the
	// commands look for none. Default /run/pgtender/agent.sock.
	Socket string `yaml:"socket"`
	// MaxHold is how many bytes of WAL that is not archived the agent holds on
	// its member; what is older is let go, with an error in the log. 0 holds
	// nothing. Default 16GB.
	MaxHold Bytes `yaml:"max_hold"`
	// Grace is how long a whole segment may wait for the leader to archive it
	// before the agent of any member does. Default 1m. A standby that archives
	// itself, with archive_mode=always, waits 5 s at most.
	Grace Duration `yaml:"grace"`
	// Interval is the time between two looks at what is archived. Default 10s.
	Interval Duration `yaml:"interval"`
}

// Receive settings, for the receiver of streamed WAL.
type Receive struct {
	// Slot is the replication slot that holds the leader's WAL for the receiver.
	// It should be declared to Patroni (slots.<name>.type: physical), which then
	// keeps it through failovers; without that WAL is held only while the
	// receiver runs. Default pgtender_receive.
	Slot string `yaml:"slot"`
	// Every is the longest time that streamed WAL waits before it is stored, and
	// Size how much of it does. Default 1s and 1MB.
	Every Duration `yaml:"every"`
	Size  Bytes    `yaml:"size"`
	// SpoolDir keeps the segment that arrives, some segments' room; nothing in
	// it needs to survive. Default: the system's directory for temporary files.
	SpoolDir string `yaml:"spool_dir"`
	// Hosts are the cluster's servers as host:port, where no DCS tells which one
	// leads: the one that is no standby is streamed from.
	Hosts []string `yaml:"hosts"`
}

// Log settings; --log-level and --log-format win over them.
type Log struct {
	// Level is debug, info (default), warn or error.
	Level string `yaml:"level"`
	// Format is text (default) or json.
	Format string `yaml:"format"`
	// File appends the log to a file instead of standard error.
	File string `yaml:"file"`
}

// Default returns the values that hold where nothing else is set.
func Default() Config {
	return Config{
		Expire:  Expire{Grace: Duration(24 * time.Hour)},
		Receive: Receive{Slot: "pgtender_receive", Every: Duration(time.Second), Size: 1 << 20},
		S3:      S3{RetryBudget: Duration(2 * time.Minute)},
		Backup:  Backup{Leader: "allow", MaxLag: 256 << 20, Compression: "zstd", Level: 1, ArchiveTimeout: Duration(10 * time.Minute), Checkpoint: "fast", FullFallback: "allow", SyntheticShare: 50},
		Archive: Archive{PushTimeout: Duration(5 * time.Minute), Workers: 4, PushAhead: 512 << 20, Prefetch: 128 << 20, DCSTimeout: Duration(5 * time.Second)},
		Watch: Watch{Mode: "off", Patience: Duration(5 * time.Minute), StartPatience: Duration(30 * time.Minute), Again: Duration(6 * time.Hour),
			Spacing: Duration(15 * time.Minute), Settled: Duration(2 * time.Minute)},
		Agent: Agent{Socket: "/run/pgtender/agent.sock", MaxHold: 16 << 30, Grace: Duration(time.Minute), Interval: Duration(10 * time.Second)},
		Log:   Log{Level: "info", Format: "text"},
	}
}
