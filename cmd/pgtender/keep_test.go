package main

import (
	"log/slog"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/etcd"
	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/patroni"
)

// keep verifies and expires on a real cluster, as the servers' user.
func (c *onCluster) keep(n *lab.Node) {
	out, _ := c.run(0, n, "verify")
	c.want(out, "ok     backup ", "quick: 1 backups")
	out, _ = c.run(0, n, "verify", "--deep")
	c.want(out, "deep: 1 backups", "read")
	out, _ = c.run(0, n, "verify", "--restore")
	c.want(out, "consistent at", "pg_amcheck", "pg_dumpall")
	out, _ = c.run(0, n, "info")
	c.want(out, "verified (quick)", "verified (deep)", "verified (restore)", "in order")
	out, _ = c.run(0, n, "expire", "--dry-run")
	c.want(out, "it is the newest good backup", "no retention is configured")

	store, err := etcd.Open(c.t.Context(), etcd.Options{Endpoints: []string{"http://" + c.DCS.Address}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		c.t.Fatal(err)
	}
	defer store.Close()
	_, release, err := ha.HoldBackup(c.t.Context(), dcs.Locker(store), patroni.Prefix("service", c.Scope), "somebody else", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	_, errs := c.run(1, n, "expire", "--yes")
	c.want(errs, "somebody else")
	c.run(0, n, "expire", "--yes", "--elect")
	release()
	out, _ = c.run(0, n, "expire", "--yes")
	c.want(out, "removed 0 objects")
}
