package backup_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

func standbyFacts() backup.Facts {
	primary := server.Info{Version: 150018, SystemID: 7, FullPageWrites: true, WALLevel: "replica", ArchiveMode: "on"}
	source := primary
	source.InRecovery, source.DataDirectory = true, "/data"
	return backup.Facts{
		Cluster: repo.ClusterID{Scope: "demo", SystemID: 7}, DataDir: "/data", SameDataDir: true, MaySwitch: true,
		Control: pg.Control{SystemID: 7, DataChecksumVersion: 1}, Server: source, Primary: &primary,
	}
}

func TestDecideSaysWhatKindOfBackupOrWhyNone(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*backup.Facts)
		role    string
		refused []string // all of them at once
		warned  string
	}{
		{name: "a standby", change: func(*backup.Facts) {}, role: repo.RoleStandby},
		{name: "a primary", change: func(f *backup.Facts) { f.Server.InRecovery, f.Primary = false, nil }, role: repo.RolePrimary},
		{name: "archiving is off", change: func(f *backup.Facts) { f.Primary.ArchiveMode = "off" }, role: repo.RoleStandby, warned: "archive_mode"},
		{name: "archiving is off on the standby only", change: func(f *backup.Facts) { f.Server.ArchiveMode = "off" }, role: repo.RoleStandby},
		{name: "no checksums", change: func(f *backup.Facts) { f.Control.DataChecksumVersion = 0 }, role: repo.RoleStandby, warned: "no data checksums"},
		{name: "a server that is too new", change: func(f *backup.Facts) { f.Server.Version = 190000 }, refused: []string{"version 19.0"}},
		{name: "a server that is too old", change: func(f *backup.Facts) { f.Server.Version = 120005 }, refused: []string{"version 12.5"}},
		{name: "another data directory", change: func(f *backup.Facts) { f.SameDataDir = false }, refused: []string{"data directory"}},
		{name: "an unreadable data directory", change: func(f *backup.Facts) { f.Unreadable = errors.New("denied") }, refused: []string{"denied"}},
		{name: "another cluster's directory", change: func(f *backup.Facts) { f.Control.SystemID = 8 }, refused: []string{"pg_control"}},
		{name: "another cluster's repository", change: func(f *backup.Facts) { f.Cluster.SystemID = 8 }, refused: []string{"part of the repository"}},
		{name: "wal_level minimal", change: func(f *backup.Facts) { f.Server.WALLevel = "minimal" }, refused: []string{"wal_level"}},
		{name: "a standby without a way to its primary", change: func(f *backup.Facts) { f.Primary = nil }, refused: []string{"no way"}},
		{name: "a primary that cannot be asked", change: func(f *backup.Facts) { f.PrimaryError = errors.New("refused") }, refused: []string{"cannot be asked"}},
		{name: "a primary that is a standby", change: func(f *backup.Facts) { f.Primary.InRecovery = true }, refused: []string{"is a standby"}},
		{name: "another cluster's primary", change: func(f *backup.Facts) { f.Primary.SystemID = 8 }, refused: []string{"the primary's system identifier"}},
		{name: "full_page_writes off", change: func(f *backup.Facts) { f.Primary.FullPageWrites = false }, refused: []string{"full_page_writes"}},
		{name: "no right to end a segment", change: func(f *backup.Facts) { f.MaySwitch = false }, refused: []string{"pg_switch_wal"}},
		{name: "several reasons", change: func(f *backup.Facts) { f.SameDataDir, f.Cluster.SystemID, f.Primary = false, 8, nil }, refused: []string{"data directory", "part of the repository", "no way"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := standbyFacts()
			c.change(&f)
			p, err := backup.Decide(f)
			if (err != nil) != (c.refused != nil) {
				t.Fatalf("got %v", err)
			}
			for _, want := range c.refused {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not among the reasons:\n%v", want, err)
				}
			}
			if err != nil {
				if finding.Hint(err) == "" {
					t.Errorf("no hint with: %v", err)
				}
				return
			}
			if p.Kind != repo.Full || p.Role != c.role || p.Why == "" {
				t.Errorf("planned %+v", p)
			}
			if (len(p.Findings) > 0) != (c.warned != "") || c.warned != "" && !strings.Contains(p.Findings[0].Text, c.warned) {
				t.Errorf("findings: %v, want %q", p.Findings, c.warned)
			}
		})
	}
}
