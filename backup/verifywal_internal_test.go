package backup

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// TestWhichBackupsAFaultOfTheArchiveConcerns: those that begin before it, and as
// to wal_level the place within the segment counts.
func TestWhichBackupsAFaultOfTheArchiveConcerns(t *testing.T) {
	const size = pg.SegmentSize(1 << 20)
	segment := pg.Segment{Timeline: 1, Number: 5}
	start := size.Start(segment.Number)
	at := func(l pg.LSN) pg.Pos { return pg.Pos{Timeline: 1, LSN: l} }
	type verdict struct {
		Faults int
		Lost   Loss
	}
	for _, c := range []struct {
		name  string
		fault archive.Fault
		want  []verdict // of backups before, across, in the segment behind it, and later
	}{
		{"a hole", archive.Fault{Kind: archive.FaultMissing, At: start}, []verdict{{1, ""}, {1, LostWAL}, {1, LostWAL}, {}}},
		{"minimal WAL", archive.Fault{Kind: archive.FaultMinimal, At: start + 100, Through: start + 200}, []verdict{{1, ""}, {1, LostWAL}, {}, {}}},
		{"changes that cannot be told", archive.Fault{Kind: archive.FaultUntracked, At: start}, []verdict{{}, {}, {}, {}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &verifier{}
			for _, b := range [][2]pg.LSN{{start - 1000, start - 500}, {start - 1000, start + 300}, {start + 300, start + 400}, {start + pg.LSN(size), start + pg.LSN(size) + 100}} {
				v.Backups = append(v.Backups, VerifiedBackup{manifest: &repo.Manifest{Backup: repo.Backup{Start: at(b[0]), Stop: at(b[1])}}})
			}
			c.fault.Segment, c.fault.Err = segment, errors.New("what is wrong")
			judged := &archive.Verified{Lineage: archive.Lineage{History: pg.FirstTimeline()}, SegmentSize: size}
			v.walFault(judged, &archive.FaultSpan{Fault: c.fault, Last: segment})
			var got []verdict
			for _, b := range v.Backups {
				got = append(got, verdict{len(b.Faults), b.lost})
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}
