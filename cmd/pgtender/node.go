package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strconv"
	"strings"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/internal/config"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

// node is what the commands on one machine have in common: the configuration
// and what follows from it. Everything beyond is opened when it is first asked
// for, so that archive-push touches no more than it needs. One goroutine.
type node struct {
	config.Config
	log     *slog.Logger
	environ []string
	// foreign says that --cluster names another cluster than the one that is
	// configured: what lies on this machine says nothing about it.
	foreign    bool
	configured string // Cluster without --cluster
	breaker    breaker
	file       string // the configuration file that was read, "" if none was

	patroniRead bool
	patroniConf patroni.Config
	*opened
}

// opened is what a node and its copies share.
type opened struct {
	dcsStore dcs.Store
	objects  storage.Store
}

// node reads the configuration and makes a node of it.
func (a *app) node() (*node, error) {
	c, log, err := a.setup()
	if err != nil {
		return nil, err
	}
	return a.nodeOf(c, log)
}

// nodeOf is node with a configuration that was read.
func (a *app) nodeOf(c config.Config, log *slog.Logger) (*node, error) {
	n := &node{Config: c, log: log, environ: a.environ, configured: c.Cluster, file: a.configRead, opened: &opened{}}
	if a.repository != "" {
		n.Repository = a.repository
	}
	if a.cluster != "" {
		configured, err := n.scope()
		n.Cluster = a.cluster
		given, badName := n.scope()
		if badName != nil {
			return nil, badName
		}
		n.foreign = err == nil && given.Scope != configured.Scope
	}
	return n, nil
}

// own is the node without regard to --cluster: the cluster that Patroni runs
// here, not the one whose backups are read. It shares what n has opened.
func (n *node) own() *node {
	own := *n
	own.Cluster, own.foreign = n.configured, false
	return &own
}

// apart is the node with nothing opened: for another goroutine.
func (n *node) apart() *node {
	apart := *n
	apart.opened = &opened{}
	return &apart
}

// close gives back what was opened.
func (n *node) close() {
	if n.dcsStore != nil {
		n.dcsStore.Close()
	}
}

// patroni reads Patroni's configuration, and reports whether there is any:
// without one, a command lives from the flags and pgtender.yml alone.
func (n *node) patroni() (patroni.Config, bool, error) {
	if n.Patroni == "" && n.DCS.Type == "" && n.Cluster != "" {
		return patroni.Config{}, false, nil
	}
	if !n.patroniRead {
		c, err := patroni.ReadConfig(n.Patroni, n.environ)
		switch {
		case errors.Is(err, patroni.ErrNoConfig) && (n.DCS.Type != "" || n.Cluster != ""):
			return patroni.Config{}, false, nil
		case errors.Is(err, patroni.ErrNoConfig):
			return patroni.Config{}, false, usageError{finding.WithHint(n.unconfigured("no cluster is configured"),
				"name patroni.yml in the configuration (patroni: /etc/patroni/patroni.yml), or the cluster with --cluster SCOPE")}
		case err != nil:
			return patroni.Config{}, false, usageError{err}
		}
		n.patroniConf, n.patroniRead = c, true
	}
	return n.patroniConf, true, nil
}

// renew reads Patroni's configuration again, for a daemon, and goes by it if it has
// changed: passwords and the DCS may. A file that cannot be read is perhaps just
// being written. That another member's configuration took its place is for whoever
// starts the daemon to judge.
func (n *node) renew() {
	if !n.patroniRead {
		return
	}
	c, err := patroni.ReadConfig(n.Patroni, n.environ)
	if err != nil || reflect.DeepEqual(c, n.patroniConf) {
		return
	}
	if old := &n.patroniConf; c.Scope != old.Scope || c.Group != old.Group || c.Namespace != old.Namespace || c.Name != old.Name || c.Postgres.DataDir != old.Postgres.DataDir {
		n.log.Warn("Patroni's configuration is another member's now, and does not count before a restart",
			"scope", c.Scope, "name", c.Name, "data_dir", c.Postgres.DataDir)
		return
	}
	n.log.Info("Patroni's configuration has changed, and is gone by", "source", c.Source)
	n.patroniConf = c
	if n.dcsStore != nil {
		n.dcsStore.Close() // it is not asked any more
		n.dcsStore = nil
	}
}

// unconfigured is the error of a setting that nobody made, which tells where one
// would have been looked for: a file in another place is the usual reason.
func (n *node) unconfigured(what string) error {
	if n.file == "" {
		return fmt.Errorf("%s (there is no %s)", what, config.DefaultPath)
	}
	return fmt.Errorf("%s (in %s)", what, n.file)
}

// clusterFlag is the value of --cluster that names id, as scope reads it.
func clusterFlag(id repo.ClusterID) string {
	name := id.Scope
	if id.Group != "" {
		name += "+" + id.Group
	}
	return name + "/" + id.SystemID.String()
}

// scope gives the cluster's name, Citus group and, if it is configured, the
// system identifier.
func (n *node) scope() (repo.ClusterID, error) {
	if n.Cluster != "" {
		name, sysid, given := strings.Cut(n.Cluster, "/")
		scope, group, grouped := strings.Cut(name, "+")
		id := repo.ClusterID{Scope: scope, Group: group}
		if _, err := strconv.ParseUint(group, 10, 32); grouped && err != nil {
			return id, usagef("cluster %q: Citus group %q is not a number", n.Cluster, group)
		}
		if given {
			v, err := pg.ParseSystemID(sysid)
			if err != nil {
				return id, usagef("cluster %q: %w", n.Cluster, err)
			}
			id.SystemID = v
		}
		return id, nil
	}
	p, ok, err := n.patroni()
	switch {
	case err != nil:
		return repo.ClusterID{}, err
	case !ok || p.Scope == "":
		return repo.ClusterID{}, usageError{finding.WithHint(errors.New("the cluster's scope is not configured"), "set patroni or cluster in the configuration, or use --cluster SCOPE")}
	}
	return repo.ClusterID{Scope: p.Scope, Group: p.Group}, nil
}

// namespace is Patroni's.
func (n *node) namespace() string {
	if n.DCS.Namespace != "" {
		return n.DCS.Namespace
	}
	if p, ok, err := n.patroni(); err == nil && ok {
		return p.Namespace
	}
	return patroni.DefaultNamespace
}

// scopePath is the scope as it stands in the DCS.
func (n *node) scopePath() (string, error) {
	id, err := n.scope()
	if err != nil || id.Group == "" {
		return id.Scope, err
	}
	return id.Scope + "/" + id.Group, nil
}

// member is this node's Patroni member name, "" if it is not known.
func (n *node) member() string {
	if n.foreign {
		return ""
	}
	if n.DCS.Member != "" {
		return n.DCS.Member
	}
	if p, ok, err := n.patroni(); err == nil && ok {
		return p.Name
	}
	return ""
}

// dataDir is the local data directory.
func (n *node) dataDir() (string, error) {
	if n.DataDir != "" {
		return n.DataDir, nil
	}
	p, ok, err := n.patroni()
	switch {
	case err != nil:
		return "", err
	case !ok || p.Postgres.DataDir == "":
		return "", usageError{finding.WithHint(errors.New("the data directory is not configured"), "set data_dir, or patroni to a patroni.yml with postgresql.data_dir")}
	}
	return p.Postgres.DataDir, nil
}

// cluster reads the cluster from the DCS, afresh at each call.
func (n *node) cluster(ctx context.Context) (patroni.Cluster, error) {
	store, err := n.dcs(ctx)
	if err != nil {
		return patroni.Cluster{}, clusterError(err)
	}
	scope, err := n.scopePath()
	if err != nil {
		return patroni.Cluster{}, err
	}
	c, err := patroni.Load(ctx, store, n.namespace(), scope)
	if errors.Is(err, dcs.ErrUnavailable) || errors.Is(err, dcs.ErrDenied) {
		err = finding.WithHint(err, "check the DCS section of patroni.yml, the network and the credentials from this host; pgtender check tells more")
	}
	return c, err
}

// systemID finds out which incarnation of the scope is meant: what the
// configuration says, the local data directory, the DCS, and last the only one
// that the repository holds.
func (n *node) systemID(ctx context.Context) (pg.SystemID, error) {
	id, err := n.scope()
	if err != nil || id.SystemID != 0 {
		return id.SystemID, err
	}
	if dir, err := n.dataDir(); err == nil && !n.foreign {
		switch _, control, err := pg.ReadControl(ctx, dir); {
		case err == nil:
			return control.SystemID, nil
		case !errors.Is(err, os.ErrNotExist):
			n.log.Warn("the local pg_control cannot be read; the DCS is asked for the system identifier", "error", err)
		}
	}
	var dcsErr error
	if _, ok, err := n.patroni(); err == nil && ok || n.DCS.Type != "" {
		c, err := n.cluster(ctx)
		if err == nil && c.SystemID != 0 {
			return c.SystemID, nil
		}
		dcsErr = err
	}
	return n.onlySystemID(ctx, id, dcsErr)
}

// onlySystemID gives the system identifier of the one cluster of that scope in
// the repository, and refuses to choose among several.
func (n *node) onlySystemID(ctx context.Context, id repo.ClusterID, dcsErr error) (pg.SystemID, error) {
	store, err := n.store(ctx, false)
	if err != nil {
		return 0, errors.Join(err, dcsErr)
	}
	found, err := repo.Clusters(ctx, store, id.Scope)
	if err != nil {
		return 0, fmt.Errorf("list the clusters of scope %s in %s: %w", id.Scope, store, errors.Join(err, dcsErr))
	}
	var names []string
	var only pg.SystemID
	for _, c := range found {
		if c.Group == id.Group {
			names, only = append(names, clusterFlag(c)), c.SystemID
		}
	}
	switch len(names) {
	case 1:
		return only, nil
	case 0:
		return 0, finding.WithHint(errors.Join(fmt.Errorf("%s holds nothing of scope %s", store, id.Scope), dcsErr), "check the scope and the repository's URL")
	}
	return 0, finding.WithHint(fmt.Errorf("%s holds %d incarnations of scope %s: %s", store, len(names), id.Scope, strings.Join(names, ", ")),
		"name the one you mean with --cluster SCOPE/SYSTEM_IDENTIFIER")
}

// repository opens the cluster's part of the repository for reading.
func (n *node) repository(ctx context.Context) (*repo.Repo, error) {
	if _, err := n.scope(); err != nil {
		return nil, err // usage, before anything is tried
	}
	store, err := n.store(ctx, false)
	if err != nil {
		return nil, err
	}
	return n.openRepo(ctx, store, n.systemID)
}

// repositoryToRestore opens it within the rate that restores are held to.
func (n *node) repositoryToRestore(ctx context.Context) (*repo.Repo, error) {
	if _, err := n.scope(); err != nil {
		return nil, err
	}
	store, err := n.store(ctx, false)
	if err != nil {
		return nil, err
	}
	return n.openRepo(ctx, n.limited(store), n.systemID)
}

// repositoryToWrite opens the cluster's part of the repository, and makes an
// empty place ready for its first use. An empty place is refused where the DCS
// knows that the cluster has a repository already: then a file system is not
// mounted, or the URL is another one, and what is stored there would be lost to
// everybody else.
func (n *node) repositoryToWrite(ctx context.Context) (*repo.Repo, error) {
	if _, err := n.scope(); err != nil {
		return nil, err
	}
	store, err := n.store(ctx, false)
	if errors.Is(err, storage.ErrNoStore) && strings.HasPrefix(n.Repository, "file:") {
		if err := n.firstUse(ctx); err != nil {
			return nil, fmt.Errorf("%s is not a repository yet: %w", n.Repository, err)
		}
		store, err = n.store(ctx, true)
	}
	if err != nil {
		return nil, err
	}
	return n.openRepo(ctx, store, n.systemID)
}

// firstUse refuses to begin a repository for a cluster that has one.
func (n *node) firstUse(ctx context.Context) error {
	owner, err := n.ownerDCS()
	if err != nil || owner == nil {
		return err
	}
	id, err := owner.Read(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("whether the cluster has one elsewhere cannot be asked: %w", err)
	case id != "":
		return finding.WithHint(fmt.Errorf("the cluster has one already (owner %s in %s)", id, owner.Where),
			"look whether the file system is mounted and the URL is the same on all members; to begin a new repository on purpose, run: pgtender adopt")
	}
	return nil
}

func (n *node) openRepo(ctx context.Context, store storage.Store, systemID func(context.Context) (pg.SystemID, error)) (*repo.Repo, error) {
	id, err := n.scope()
	if err != nil {
		return nil, err
	}
	if id.SystemID, err = systemID(ctx); err != nil {
		return nil, err
	}
	return repo.Open(store, id, n.repoOptions()), nil
}

func (n *node) repoOptions() repo.Options {
	level := int(n.Backup.Level)
	if n.Backup.Compression == "none" {
		level = repo.NoCompression
	}
	return repo.Options{Level: level, Log: n.log}
}
