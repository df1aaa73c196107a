package e2e_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/e2e/lab"
)

// info is what the tests read of pgtender info --json.
type info struct {
	SystemID string       `json:"system_id"`
	Owner    *struct{}    `json:"owner"`
	Backups  []infoBackup `json:"backups"`
	WAL      []infoWAL    `json:"wal"`
	Alarms   []infoAlarm  `json:"alarms"`
}

type infoBackup struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Usable *bool  `json:"usable"`
	Reason string `json:"reason"`
	Backup *struct {
		SourceMember string    `json:"source_member"`
		SourceRole   string    `json:"source_role"`
		ServerNumber int       `json:"server_version_num"`
		Started      time.Time `json:"started"`
		Finished     time.Time `json:"finished"`
		Bytes        int64     `json:"bytes"`
		StoredBytes  int64     `json:"stored_bytes"`
		Start        position  `json:"start"`
		Stop         position  `json:"stop"`
	} `json:"backup"`
}

type position struct {
	Timeline uint32 `json:"timeline"`
	LSN      string `json:"lsn"`
}

type infoWAL struct {
	Timeline    uint32   `json:"timeline"`
	Incarnation string   `json:"incarnation"`
	OnHistory   bool     `json:"on_history"`
	First       string   `json:"first"`
	Last        string   `json:"last"`
	Segments    int      `json:"segments"`
	Holes       []span   `json:"holes"`
	Conflicts   []string `json:"conflicts"`
}

type span struct {
	First string `json:"first"`
	Last  string `json:"last"`
	Count int    `json:"count"`
}

type infoAlarm struct {
	Kind    string `json:"kind"`
	Subject string `json:"subject"`
	Text    string `json:"text"`
	Member  string `json:"member"`
}

func (s *site) info(t testing.TB, n *lab.Node) info {
	t.Helper()
	var i info
	s.query(t, n, &i, "info")
	return i
}

// complete gives the backups that are listed as such. Whatever else is listed
// must say so.
func (i info) complete(t testing.TB) []infoBackup {
	t.Helper()
	var out []infoBackup
	for _, b := range i.Backups {
		switch {
		case b.Status == "complete" && b.Backup == nil, b.Status == "damaged":
			t.Errorf("a damaged backup is listed: %+v", b)
		case b.Status == "complete":
			out = append(out, b)
		}
	}
	return out
}

// holes are all that info shows on the history in force, as text.
func (i info) holes() string {
	var out []string
	for _, w := range i.WAL {
		for _, h := range w.Holes {
			if w.OnHistory {
				out = append(out, h.First+".."+h.Last)
			}
		}
	}
	return strings.Join(out, " ")
}

// backup takes a backup of the cluster as its timers do: with --elect on every
// member. Exactly one takes it, and it is listed.
func (s *site) backup(t testing.TB) infoBackup {
	t.Helper()
	var taken []string
	for _, n := range s.Nodes {
		o := s.must(t, n, "backup", "--elect", "--json")
		if o.stdout == "" {
			continue
		}
		var result struct{ Backup struct{ ID string } }
		if err := json.Unmarshal([]byte(o.stdout), &result); err != nil {
			t.Fatalf("%v\n%v", err, o)
		}
		taken = append(taken, result.Backup.ID)
	}
	if len(taken) != 1 {
		t.Fatalf("backups taken: %v, want one", taken)
	}
	for _, b := range s.info(t, s.Nodes[0]).complete(t) {
		if b.ID == taken[0] {
			return b
		}
	}
	t.Fatalf("backup %s is not listed", taken[0])
	return infoBackup{}
}
