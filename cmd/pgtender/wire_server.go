package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/patroni"
)

// connectLocal opens a session with the server that runs in the local data
// directory. Where it listens, its own postmaster.pid knows best; whom to log in
// as is patroni.yml's superuser, or without one the user of the process.
func (n *node) connectLocal(ctx context.Context) (*server.Conn, error) {
	dir, err := n.dataDir()
	if err != nil {
		return nil, err
	}
	p, known, err := n.patroni()
	if err != nil {
		return nil, err
	}
	pid, err := postmaster(dir)
	if err != nil {
		return nil, err
	}
	host, _ := p.Postgres.Local()
	if !known || pid.SocketDir != "" && (p.Postgres.UseUnixSocket || host == "") {
		host = cmp.Or(pid.SocketDir, pid.Listen)
	}
	return server.Connect(ctx, n.login(p.Postgres.Superuser, n.Server.User, host, pid.Port))
}

// postmaster reads where the server of a data directory listens.
func postmaster(dir string) (pg.Postmaster, error) {
	content, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return pg.Postmaster{}, finding.WithHint(fmt.Errorf("no PostgreSQL server runs in %s", dir), "start it, or run this on the member's own machine")
	}
	if err != nil {
		return pg.Postmaster{}, finding.WithHint(err, "run this as the user that owns the data directory")
	}
	p, err := pg.ParsePostmaster(content)
	if err == nil && (p.Port == 0 || p.SocketDir == "" && p.Listen == "") {
		err = fmt.Errorf("the server in %s is not listening yet", dir)
	}
	return p, err
}

// connectPrimary opens a session with the cluster's present leader, as the DCS
// names it.
func (n *node) connectPrimary(ctx context.Context) (*server.Conn, error) {
	c, err := n.cluster(ctx)
	if err != nil {
		return nil, err
	}
	leader, ok := c.LeaderMember()
	switch {
	case c.Leader == "":
		return nil, errors.New("the cluster has no leader")
	case !ok || leader.Host == "":
		return nil, fmt.Errorf("the address of the leader %s is not in the DCS", c.Leader)
	}
	return n.connectMember(ctx, leader)
}

// connectMember opens a session with one member over the network.
func (n *node) connectMember(ctx context.Context, m patroni.Member) (*server.Conn, error) {
	p, _, err := n.patroni()
	if err != nil {
		return nil, err
	}
	return server.Connect(ctx, n.login(p.Postgres.Superuser, n.Server.User, m.Host, m.Port))
}

// login completes a server's address by one of Patroni's users, or our own
// configuration's. The application name stays pgtender's own: Patroni would
// count one that equals a member's name among the synchronous standbys.
func (n *node) login(user patroni.Auth, name, host string, port int) server.Options {
	return server.Options{
		Host: host, Port: uint16(port), User: cmp.Or(name, user.Username), Password: user.Password.Reveal(),
		SSLMode: user.SSLMode, SSLRootCert: user.SSLRootCert, SSLCert: user.SSLCert, SSLKey: user.SSLKey,
		SSLPassword: user.SSLPassword.Reveal(), ChannelBinding: user.ChannelBinding, Log: n.log,
	}
}
