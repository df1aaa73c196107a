package catchup_test

import (
	"fmt"
	"testing"

	"github.com/pgtender/pgtender/catchup"
)

// TestALastRecordMayGoOnAtTheLeader: of most segments the last record goes on in
// the next, and that is not archived while the leader writes it.
func TestALastRecordMayGoOnAtTheLeader(t *testing.T) {
	t.Parallel()
	r := newReplaced(t)
	before := r.primary.Value(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	r.primary.Exec(t, fmt.Sprintf(`DO $$ BEGIN
		WHILE pg_walfile_name(pg_current_wal_insert_lsn()) = '%s' LOOP INSERT INTO t SELECT generate_series(1, 1000); END LOOP;
	END $$`, before))
	r.primary.WaitFor(t, fmt.Sprintf("SELECT last_archived_wal >= '%s' FROM pg_stat_archiver", before), "t")
	o := r.options(t, nil).Gather
	o.Purpose, o.Rung = catchup.Replica, ""
	f, err := catchup.Gather(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := catchup.Decide(f); err != nil || p.Choice != catchup.ByMaps {
		t.Errorf("the choice is %q: %v", p.Choice, err)
	}
}
