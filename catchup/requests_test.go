package catchup_test

import (
	"fmt"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/backup/storage/meter"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestScatteredPagesComeInFewRequests brings back a former primary that has
// changed a page here and there. They lie all over the backup, and in a store over
// a network a request each would take longer than to read what is between them.
func TestScatteredPagesComeInFewRequests(t *testing.T) {
	t.Parallel()
	const pages, apart, most = 150, 40, 12
	l := newLab(t, pgtest.Options{Major: 17, Checksums: true, Config: map[string]string{"wal_keep_size": "0", "autovacuum": "off", "checkpoint_timeout": "1h", "max_wal_size": "1GB"}})
	// Rows that hardly compress, four of them in a page.
	l.primary.Exec(t, `CREATE TABLE wide AS SELECT i,
		(SELECT string_agg(md5(i::text || ' ' || j), '') FROM generate_series(1, 58) AS j) AS pad
		FROM generate_series(1, 24000) AS i`, "CHECKPOINT")
	if n := l.primary.Value(t, "SELECT pg_relation_size('wide') / 8192 >= 6000"); n != "t" {
		t.Fatal("the table is too small")
	}
	next := pgtest.StandbyOf(t, l.primary, pgtest.Options{Config: map[string]string{"archive_mode": "on", "archive_command": l.program + "push %p"}})
	next.CatchUp(t, l.primary)
	l.backup(t, l.primary)
	next.CatchUp(t, l.primary)
	next.Promote(t)
	x := &branched{lab: l, branch: branch{major: 17, stop: "diverged, clean", protect: "checksums"}, old: l.primary}
	// A row is not moved to another page.
	for page := range pages {
		x.old.Exec(t, fmt.Sprintf("UPDATE wide SET i = -i WHERE ctid = '(%d,2)'", page*apart))
	}
	x.old.Stop(t, pgtest.Fast)
	x.primary = next
	x.archived(t)

	inner, err := file.Open(t.Context(), file.Options{Dir: x.store, DirMode: 0o777, FileMode: 0o666})
	if err != nil {
		t.Fatal(err)
	}
	store := meter.New(far{inner})
	x.repo = repo.Open(store, x.repo.Cluster(), repo.Options{})
	p, _ := x.chosen(t, catchup.ByMaps)
	rung := p.Rungs[2]
	if rung.Name != catchup.ByMaps || p.Choice != catchup.ByMaps || rung.Requests > most {
		t.Errorf("chose %q; planned: %+v", p.Choice, rung)
	}
	if rung.Fetch < pages*4096 {
		t.Errorf("%d bytes for %d pages", rung.Fetch, pages)
	}
	planned := store.Counts()
	r, err := catchup.Run(t.Context(), p, catchup.RunOptions{Repo: x.repo, Log: testLog(t, "unarchived WAL")})
	if err != nil {
		t.Fatal(err)
	}
	if r.Bytes < pages*blockSize {
		t.Errorf("%d bytes were written for %d pages", r.Bytes, pages)
	}
	// Beside the pages: the manifest, page maps, frame tables, WAL and a history.
	got := store.Counts()
	t.Logf("%d requests for %d bytes planned; sent: %+v", rung.Requests, rung.Fetch, got)
	if sent := got.Get - planned.Get; sent > rung.Requests+most {
		t.Errorf("%d requests, %d were planned", sent, rung.Requests)
	}
	x.equalsARestore(t, p.Backup.ID)
}

// far is a store that does not say that it is near.
type far struct{ storage.Store }
