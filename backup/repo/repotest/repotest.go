// Package repotest gives tests a repository in memory whose content is checked
// when the test ends.
package repotest

import (
	"context"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/pg"
)

// Cluster is the cluster of the repositories made here.
var Cluster = repo.ClusterID{Scope: "demo", SystemID: 7123456789012345678}

// ID gives a backup id that depends on n alone; larger n are later.
func ID(n int) repo.BackupID {
	return repo.BackupID(uint64(time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC).Unix())<<24 | uint64(n))
}

// New gives a repository over a store in memory, and that store. When the test
// ends, everything in the store must be whole ([repo.Check]), and no object
// may have been overwritten by other content.
func New(t testing.TB) (*repo.Repo, storage.Store) {
	t.Helper()
	inner := mem.New()
	store := storagetest.Enforce(t, inner, nil)
	t.Cleanup(func() { Check(t, inner) })
	return repo.Open(store, Cluster, repo.Options{}), store
}

// Check fails the test unless everything in the store is whole.
func Check(t testing.TB, store storage.Store) {
	t.Helper()
	if err := repo.Check(context.WithoutCancel(t.Context()), store); err != nil {
		t.Errorf("the repository is not whole:\n%v", err)
	}
}

// Backup gives a description of a full backup that Commit accepts; the caller
// changes what its test is about.
func Backup(id repo.BackupID) repo.Backup {
	start := id.Time()
	return repo.Backup{
		ID: id, Kind: repo.Full, Scope: Cluster.Scope, SystemID: Cluster.SystemID,
		ServerVersion: 170002, CatalogVersion: 202406281, ControlVersion: 1700, BlockSize: 8192, SegmentSize: pg.DefaultSegmentSize, ChecksumVersion: 1,
		Start: pg.Pos{Timeline: 2, LSN: 0x5000028}, Stop: pg.Pos{Timeline: 2, LSN: 0x5000138}, Checkpoint: 0x5000060, Redo: 0x5000028,
		History:      []pg.Fork{{Parent: 1, Switch: 0x3000000, Reason: "no recovery target specified"}},
		SourceMember: "pg1", SourceRole: repo.RoleStandby, SourceHost: "host1", Started: start, Finished: start.Add(time.Minute), ToolVersion: "test",
		Tablespaces: []repo.Tablespace{{OID: 16384, Location: "/srv/space"}},
	}
}
