package catchup_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pgtest"
)

func TestARestoredServerEqualsItsSource(t *testing.T) {
	pgtest.EachMajor(t, func(t *testing.T, major int) {
		l := newLab(t, pgtest.Options{Major: major, Checksums: true})
		l.primary.EnableAMCheck(t)
		work := l.primary.Workload(uint64(major))
		work.Run(t, 10)
		l.backup(t, l.primary)
		work.Run(t, 10)
		want := l.primary.Dump(t)
		l.archived(t)
		dir, _ := l.restore(t, catchup.GatherOptions{})
		c := l.start(t, dir)
		if diff := cmp.Diff(want, c.Dump(t)); diff != "" {
			t.Error(diff)
		}
		c.AMCheck(t)
		c.Stop(t, pgtest.Fast)
		c.Checksums(t)
	})
}
