package backup

import (
	"fmt"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
)

// Weight is how much a backup leans on others.
type Weight struct {
	Oldest repo.BackupID // generation that it leans on
	Full   int64         // bytes of the packs of the oldest generation, which as a rule is a full backup
	All    int64         // bytes of all packs
}

// WeightOf gives the weight of a backup from what its manifest says.
func WeightOf(m *repo.Manifest) Weight {
	w := Weight{Oldest: m.ID()}
	for _, p := range m.Packs {
		w.All += p.Size
		switch {
		case p.Backup < w.Oldest:
			w.Oldest, w.Full = p.Backup, p.Size
		case p.Backup == w.Oldest:
			w.Full += p.Size
		}
	}
	return w
}

// SyntheticPolicy says when a synthetic full backup is due. Zero fields do not
// count.
type SyntheticPolicy struct {
	After time.Duration // age of the oldest generation
	Share int           // percent: a full backup's bytes among all that the newest backup leans on
}

// Due says why a synthetic full backup is due, "" if it is not.
func (p SyntheticPolicy) Due(w Weight, id repo.BackupID, now time.Time) string {
	switch age := now.Sub(w.Oldest.Time()); {
	case w.Oldest == id:
		return ""
	case p.After > 0 && age >= p.After:
		return fmt.Sprintf("it leans on backup %s, which is %s old", w.Oldest, age.Round(time.Hour))
	case p.Share > 0 && w.Full*100 < w.All*int64(p.Share):
		return fmt.Sprintf("it leans on %d MB, of which a full backup is %d MB", w.All>>20, w.Full>>20)
	}
	return ""
}
