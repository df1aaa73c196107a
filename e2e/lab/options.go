package lab

import (
	"fmt"
	"path/filepath"
	"time"
)

// Options say what cluster to run. Dir is the only field without a default.
type Options struct {
	// Dir holds everything: configurations, data, logs. It is made if it is
	// missing; the postgres user must be able to enter it when we are root.
	// Unix sockets lie below it, so its path is limited to 80 bytes.
	Dir string

	// Patroni is the release series, a folder of the cache: "4.1" (default)
	// or "3.0".
	Patroni string

	// DCS is "etcd" (default) or "consul".
	DCS string

	// Major is PostgreSQL's, 13 to 18. Zero means the distribution's own,
	// the only one with all client programs.
	Major int

	// Nodes is how many to run, named pg1, pg2 and so on. Zero means 3.
	Nodes int

	// Scope is the cluster's name, default "lab"; Namespace the path above
	// it in the DCS, default "service".
	Scope, Namespace string

	// Synchronous is Patroni's synchronous_mode: "on" (default), "off" or
	// "quorum" (Patroni 4).
	Synchronous string

	// TTL is Patroni's ttl: how long after a node's death its leader key
	// expires. Zero means 20 s, the least that Patroni 4 accepts. Consul
	// takes up to the same time again.
	TTL time.Duration

	// Durable turns fsync on, and has a test's lab on disk. A lab has neither by
	// default: it kills processes, never the kernel.
	Durable bool

	// Env is added to the environment of every node. Nodes do not inherit
	// ours. Note that Patroni keeps PATRONI_* from its children.
	Env []string

	// Configure, if not nil, is called once for each node, before its
	// configuration is written.
	Configure func(*NodeConfig)
}

// NodeConfig is what can be set about one node. Configure changes it in place.
type NodeConfig struct {
	// Node is the node in question: its name, paths and ports. Read only.
	Node *Node

	// DCSAddress is where the node's Patroni, and whoever reads its patroni.yml,
	// reach the DCS (host:port). Configure may name a proxy in front of it.
	DCSAddress string

	// Parameters are PostgreSQL parameters of the local configuration.
	// ClusterParameters go to the dynamic configuration, where Patroni wants
	// those that must be equal on all nodes (max_connections, wal_level,
	// max_wal_senders ...); only the bootstrapping node's count.
	Parameters, ClusterParameters map[string]any

	// ArchiveCommand, if set, turns archive_mode on. RestoreCommand becomes
	// the recovery_conf of standbys.
	ArchiveCommand, RestoreCommand string

	// CreateReplica are the create_replica_methods, in order. Nil means
	// basebackup alone. A Method named basebackup without options stands for
	// pg_basebackup with a fast checkpoint.
	CreateReplica []Method

	// Bootstrap replaces initdb by a custom bootstrap method.
	Bootstrap *Method

	// Tags are the member's.
	Tags map[string]any

	// Env is added to this node's environment, after Options.Env.
	Env []string

	// Edit, if not nil, has the last word on patroni.yml as a tree.
	Edit func(document map[string]any)
}

// Method is an entry of create_replica_methods or a bootstrap method with its
// section of patroni.yml: command, no_params, keep_data, recovery_conf and so on.
type Method struct {
	Name    string
	Options map[string]any
}

// maxDir bounds the length of Dir: a socket's path, Dir plus /pg1/.s.PGSQL.20000,
// has at most 107 bytes (unix(7), sun_path).
const maxDir = 80

// withDefaults checks the options and fills in what is not set.
func (o Options) withDefaults(p programs) (Options, error) {
	setDefault(&o.Patroni, "4.1")
	setDefault(&o.DCS, "etcd")
	setDefault(&o.Scope, "lab")
	setDefault(&o.Namespace, "service")
	setDefault(&o.Synchronous, "on")
	setDefault(&o.Nodes, 3)
	setDefault(&o.TTL, 20*time.Second)
	if o.Major == 0 {
		major, err := p.clientMajor()
		if err != nil {
			return o, err
		}
		o.Major = major
	}
	if o.Dir == "" {
		return o, fmt.Errorf("lab options: no Dir")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, err
	}
	if len(dir) > maxDir {
		return o, fmt.Errorf("lab options: Dir %s has more than %d bytes, too long for the sockets below it", dir, maxDir)
	}
	o.Dir = dir
	switch o.DCS {
	case "etcd", "consul":
	default:
		return o, fmt.Errorf("lab options: DCS %q is neither etcd nor consul", o.DCS)
	}
	switch o.Synchronous {
	case "on", "off", "quorum":
	default:
		return o, fmt.Errorf("lab options: Synchronous %q is none of on, off, quorum", o.Synchronous)
	}
	return o, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
