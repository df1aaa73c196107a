package backup_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// A year of daily incremental backups with a full one a month and an expiry a
// week: the repository stays within two full backups and what changed since the
// older of them, and the last backup restores. Without PGTENDER_SOAK it is
// eight days.
func TestSoakAYearOfBackups(t *testing.T) {
	days, month, week := 8, 4, 2
	if os.Getenv("PGTENDER_SOAK") != "" {
		days, month, week = 365, 30, 7
	}
	l := newLab(t, pgtest.Options{Major: pgtest.DefaultMajor, Checksums: true, Config: map[string]string{"autovacuum": "off"}})
	l.primary.Exec(t, "CREATE TABLE bulk (id int PRIMARY KEY, v text)", "INSERT INTO bulk SELECT i, md5(i::text) FROM generate_series(1, 100000) i", "VACUUM bulk")
	policy := backup.Policy{KeepBackups: week, Grace: -1}
	var fulls []int64 // their stored bytes
	changed := int64(0)
	since := []int64{0, 0} // changes since the last two full backups
	for day := range days {
		l.primary.Exec(t, fmt.Sprintf("UPDATE bulk SET v = md5(v) WHERE id %% 997 = %d", day%997))
		o := l.options(t, l.primary)
		if day%month == 0 {
			o.Kind = backup.FullOnly
		}
		b := take(t, o).Backup
		if b.Kind == repo.Full {
			fulls = append(fulls, b.StoredBytes)
			since = []int64{since[1], changed}
		} else {
			changed += b.StoredBytes
		}
		if day%week != week-1 {
			continue
		}
		// What one run condemns the next removes, and the WAL the one after.
		for range 3 {
			if _, err := backup.Expire(t.Context(), backup.ExpireOptions{Repo: l.repo, Policy: policy}); err != nil {
				t.Fatal(err)
			}
		}
		stored := int64(0)
		packs, err := l.repo.StoredPacks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, of := range packs {
			for _, p := range of {
				stored += p.Size
			}
		}
		bound := changed - since[0]
		for _, f := range fulls[max(0, len(fulls)-2):] {
			bound += f
		}
		if stored > bound {
			t.Errorf("day %d: %d bytes of packs, more than the %d of the last two full backups and the changes since", day, stored, bound)
		}
		if n := len(listed(t, l.repo)); n != week {
			t.Errorf("day %d: %d backups, want %d", day, n, week)
		}
	}
	v, err := backup.Verify(t.Context(), backup.VerifyOptions{Repo: l.repo, Deep: true})
	if err != nil || !v.OK {
		t.Errorf("deep verification: %v\n%s", err, everything(v))
	}
	all := listed(t, l.repo)
	want := l.primary.Dump(t)
	l.wal.drain(t)
	r := l.restore(t, all[len(all)-1])
	r.Start(t)
	r.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if got := r.Dump(t); got != want {
		t.Error("the last backup restores something else")
	}
}
