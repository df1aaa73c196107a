package repo_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
)

// one is a frame that holds a single page.
func one(page uint32) []repo.Frame {
	return []repo.Frame{{Place: repo.Place{Pack: 1, Offset: 64, Length: 100}, First: page, Count: 1}}
}

func TestAPageMapHolds255GenerationsAndDropsWhatIsNotUsed(t *testing.T) {
	const pages = 300
	m := repo.NewPageMap(repotest.ID(0), pages)
	var err error
	for i := 1; i < 255; i++ {
		if m, err = m.Overlay(repotest.ID(i), pages, one(uint32(i))); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(m.Generations); n != 255 {
		t.Fatalf("%d generations", n)
	}
	if _, err := m.Overlay(repotest.ID(255), pages, one(299)); !errors.Is(err, repo.ErrTooManyGenerations) {
		t.Errorf("one more: %v", err)
	}
	// The page of generation 7 is stored anew: that one is not needed any more.
	next, err := m.Overlay(repotest.ID(255), pages, one(7))
	if err != nil || len(next.Generations) != 255 {
		t.Fatalf("in place of another: %d generations, %v", len(next.Generations), err)
	}
	for p := range uint32(pages) {
		want := repotest.ID(0)
		if p > 0 && p < 255 {
			want = repotest.ID(int(p))
		}
		if p == 7 {
			want = repotest.ID(255)
		}
		if got := next.Generations[next.Generation(p)].Backup; got != want {
			t.Errorf("page %d is in %s, want %s", p, got, want)
		}
	}
}

func TestOverlay(t *testing.T) {
	base := repo.NewPageMap(repotest.ID(5), 4)
	id := repotest.ID(9)
	t.Run("a truncated file keeps its generation", func(t *testing.T) {
		m, err := base.Overlay(id, 2, nil)
		if diff := cmp.Diff(repo.NewPageMap(repotest.ID(5), 2), m); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
	t.Run("frames past the end do not count", func(t *testing.T) {
		m, err := base.Overlay(id, 4, one(4))
		if diff := cmp.Diff(base, m); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
	t.Run("a new page stored nowhere is refused", func(t *testing.T) {
		if m, err := base.Overlay(id, 6, one(4)); err == nil {
			t.Errorf("got %+v", m)
		}
	})
	t.Run("a generation is laid over once", func(t *testing.T) {
		if m, err := base.Overlay(repotest.ID(5), 4, one(1)); err == nil {
			t.Errorf("got %+v", m)
		}
	})
	t.Run("an id older than the map's is sorted before it", func(t *testing.T) {
		m, err := base.Overlay(repotest.ID(1), 4, one(2))
		if err != nil || m.Generations[0].Backup != repotest.ID(1) || cmp.Diff([]byte{1, 1, 0, 1}, m.Local) != "" {
			t.Errorf("%+v, %v", m, err)
		}
	})
	t.Run("the base is not changed", func(t *testing.T) {
		if diff := cmp.Diff(repo.NewPageMap(repotest.ID(5), 4), base); diff != "" {
			t.Error(diff)
		}
	})
}
