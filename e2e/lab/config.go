package lab

import (
	"fmt"
	"maps"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/pgtender/pgtender/internal/servertest"
)

// The accounts of every lab. Connections over TCP ask for the password, those
// over the Unix socket do not.
const (
	superuser   = "postgres"
	replication = "replicator"
	rewinder    = "rewinder"
	password    = "lab-secret"
)

// document is patroni.yml as a tree.
func (n *Node) document() map[string]any {
	o, conf := n.cluster.options, n.config
	doc := map[string]any{
		"scope":     o.Scope,
		"namespace": "/" + strings.Trim(o.Namespace, "/") + "/",
		"name":      n.Name,
		"restapi":   map[string]any{"listen": servertest.Loopback(n.RESTPort), "connect_address": servertest.Loopback(n.RESTPort)},
		"bootstrap": n.bootstrap(),
		"postgresql": map[string]any{
			"listen":          servertest.Loopback(n.Port),
			"connect_address": servertest.Loopback(n.Port),
			"data_dir":        n.DataDir,
			"bin_dir":         n.cluster.bin,
			"pgpass":          n.path("pgpass"),
			"authentication": map[string]any{
				"superuser":   login(superuser),
				"replication": login(replication),
				"rewind":      login(rewinder),
			},
			"parameters": n.parameters(),
			"pg_hba": []string{
				"local all all trust",
				"local replication all trust",
				"host all all 127.0.0.1/32 scram-sha-256",
				"host replication all 127.0.0.1/32 scram-sha-256",
			},
			// With the default, a spread checkpoint, a clone takes minutes.
			"basebackup": []any{map[string]any{"checkpoint": "fast"}},
		},
		"tags": conf.Tags,
	}
	switch {
	case o.DCS == "consul":
		doc["consul"] = map[string]any{"host": conf.DCSAddress, "register_service": false}
	case conf.DCSAddress != n.cluster.DCS.Address:
		// Otherwise clients go on to the address that etcd advertises.
		doc["etcd3"] = map[string]any{"hosts": []string{conf.DCSAddress}, "use_proxies": true}
	default:
		doc["etcd3"] = map[string]any{"host": conf.DCSAddress}
	}
	postgres := doc["postgresql"].(map[string]any)
	if conf.RestoreCommand != "" {
		postgres["recovery_conf"] = map[string]any{"restore_command": conf.RestoreCommand}
	}
	if len(conf.CreateReplica) > 0 {
		var methods []string
		for _, method := range conf.CreateReplica {
			methods = append(methods, method.Name)
			if method.Options != nil {
				postgres[method.Name] = method.Options
			}
		}
		postgres["create_replica_methods"] = methods
	}
	if conf.Edit != nil {
		conf.Edit(doc)
	}
	return doc
}

// bootstrap is the section that the first node makes the cluster from. The
// timeouts are the smallest that Patroni 4 accepts, loop_wait plus twice
// retry_timeout staying below ttl.
func (n *Node) bootstrap() map[string]any {
	o, conf := n.cluster.options, n.config
	parameters := map[string]any{"password_encryption": "scram-sha-256"}
	maps.Copy(parameters, conf.ClusterParameters)
	section := map[string]any{
		"dcs": map[string]any{
			"ttl":              int(o.TTL.Seconds()),
			"loop_wait":        1,
			"retry_timeout":    3,
			"synchronous_mode": map[string]any{"on": true, "off": false, "quorum": "quorum"}[o.Synchronous],
			"postgresql": map[string]any{
				"use_slots":     true,
				"use_pg_rewind": n.cluster.canRewind(),
				"remove_data_directory_on_diverged_timelines": true,
				"parameters": parameters,
			},
		},
		// auth-host makes PostgreSQL 13, whose default is md5, hash the
		// superuser's password as pg_hba asks for.
		"initdb": []any{
			"data-checksums", "no-sync", map[string]any{"encoding": "UTF8"}, map[string]any{"locale": "C"},
			map[string]any{"auth-host": "scram-sha-256"}, map[string]any{"auth-local": "trust"},
		},
	}
	if conf.Bootstrap != nil {
		section["method"] = conf.Bootstrap.Name
		section[conf.Bootstrap.Name] = conf.Bootstrap.Options
	}
	return section
}

// parameters are the local ones. Dynamic shared memory lies in the data
// directory, so that a killed server leaves none of it in /dev/shm.
func (n *Node) parameters() map[string]any {
	all := map[string]any{
		"unix_socket_directories":    n.Dir,
		"dynamic_shared_memory_type": "mmap",
		"fsync":                      n.cluster.options.Durable,
		"log_line_prefix":            "%m [%p] %q%a ",
	}
	if n.config.ArchiveCommand != "" {
		all["archive_mode"] = "on"
		all["archive_command"] = n.config.ArchiveCommand
	}
	maps.Copy(all, n.config.Parameters)
	return all
}

func login(user string) map[string]any {
	return map[string]any{"username": user, "password": password}
}

// WriteConfig writes patroni.yml again after change altered what Configure set.
// It takes effect with the node's next Start, or with Reload.
func (n *Node) WriteConfig(change func(*NodeConfig)) error {
	if change != nil {
		change(n.config)
	}
	text, err := yaml.Marshal(n.document())
	if err != nil {
		return fmt.Errorf("write %s: %w", n.ConfigFile, err)
	}
	return n.cluster.WriteFile(n.ConfigFile, text)
}
