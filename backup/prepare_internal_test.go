package backup

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
)

func TestMarkersOfOtherBackupsAreJudgedByTheStoresClock(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	own, other := repotest.ID(1), repotest.ID(2)
	marker := func(id repo.BackupID, host string, age time.Duration, err error) repo.Marked[repo.Running] {
		return repo.Marked[repo.Running]{ID: id, Marker: repo.Running{ID: id, Host: host}, Renewed: now.Add(-age), Err: err}
	}
	mine := marker(own, "h", 0, nil)
	for _, c := range []struct {
		name   string
		marked []repo.Marked[repo.Running]
		rival  string
		dead   []repo.BackupID
	}{
		{name: "nobody else", marked: []repo.Marked[repo.Running]{mine}},
		{name: "a fresh one", marked: []repo.Marked[repo.Running]{mine, marker(other, "h", time.Minute, nil)}, rival: "is running"},
		{name: "one as old as the grace", marked: []repo.Marked[repo.Running]{mine, marker(other, "h", 15*time.Minute, nil)}, rival: "is running"},
		{name: "one that grew old", marked: []repo.Marked[repo.Running]{mine, marker(other, "h", 15*time.Minute+1, nil)}},
		{name: "one that cannot be read", marked: []repo.Marked[repo.Running]{mine, marker(other, "", time.Minute, fs.ErrNotExist)}, rival: "is running"},
		{name: "one whose process is gone", marked: []repo.Marked[repo.Running]{mine, marker(other, "gone", time.Minute, nil)}, dead: []repo.BackupID{other}},
		{name: "one that cannot be read is nobody's", marked: []repo.Marked[repo.Running]{mine, marker(other, "gone", time.Minute, fs.ErrPermission)}, rival: "is running"},
		{name: "our own is not listed", marked: []repo.Marked[repo.Running]{marker(other, "h", time.Minute, nil)}, rival: "our own running marker"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rival, dead := judgeMarkers(c.marked, own, 15*time.Minute, func(m repo.Running) bool { return m.Host == "gone" })
			if (rival != nil) != (c.rival != "") || rival != nil && !strings.Contains(rival.Error(), c.rival) {
				t.Errorf("got %v, want %q", rival, c.rival)
			}
			if rival != nil && c.rival == "is running" && !errors.Is(rival, ErrRunning) {
				t.Errorf("%v is not ErrRunning", rival)
			}
			var ids []repo.BackupID
			for _, m := range dead {
				ids = append(ids, m.ID)
			}
			if !slices.Equal(ids, c.dead) {
				t.Errorf("dead: %v, want %v", ids, c.dead)
			}
		})
	}
}

func TestReadsKeepToTheirRateWithoutBursts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rate{perSecond: 1 << 20}
		if r.chunk() != 256<<10 {
			t.Errorf("reads of %d bytes", r.chunk())
		}
		begin := time.Now()
		read := func(n int) {
			for range n {
				if err := r.wait(t.Context(), r.chunk()); err != nil {
					t.Fatal(err)
				}
			}
		}
		read(40)
		if took := time.Since(begin); took < 9800*time.Millisecond || took > 10*time.Second {
			t.Errorf("10 MiB took %s", took)
		}
		time.Sleep(time.Minute) // a pause must not be made up for
		begin = time.Now()
		read(4)
		if took := time.Since(begin); took < 800*time.Millisecond {
			t.Errorf("1 MiB after a pause took %s", took)
		}
	})
}

func TestAReadIsAFrameAtLeastAndABufferAtMost(t *testing.T) {
	for perSecond, want := range map[int64]int{0: readSize, 1: minFrame, 300 << 10: minFrame, 1 << 20: 256 << 10, 1 << 40: readSize} {
		if got := (&rate{perSecond: perSecond}).chunk(); got != want {
			t.Errorf("%d bytes per second: reads of %d bytes, want %d", perSecond, got, want)
		}
	}
}

func TestABackupEndsAfterItsStartWhateverTheClockDoes(t *testing.T) {
	started := time.Date(2026, 8, 1, 3, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name      string
		now, want time.Time
	}{
		{"the clock goes right", started.Add(30 * time.Minute), started.Add(30 * time.Minute)},
		{"it was set back", started.Add(-time.Hour), started.Add(30 * time.Minute)},
		{"it was set forward", started.Add(5 * time.Hour), started.Add(5 * time.Hour)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ended(started, 30*time.Minute, c.now); !got.Equal(c.want) {
				t.Errorf("ended at %s, want %s", got, c.want)
			}
		})
	}
}
