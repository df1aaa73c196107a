package patroni_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

func FuzzParse(f *testing.F) {
	for _, version := range []string{"3.0.2", "4.1.4"} {
		all := keys(f, version)
		k := func(name string) string { return all[prefix+"/"+name] }
		f.Add(k("initialize"), k("leader"), k("config"), k("history"), k("sync"), k("status"), k("failover"), k("members/pg2"))
	}
	f.Fuzz(func(t *testing.T, initialize, leader, config, history, sync, status, failover, member string) {
		c, err := patroni.Parse(snapshot(map[string]string{
			prefix + "/initialize": initialize, prefix + "/leader": leader, prefix + "/config": config,
			prefix + "/history": history, prefix + "/sync": sync, prefix + "/status": status,
			prefix + "/failover": failover, prefix + "/members/pg2": member,
		}), prefix)
		if err != nil {
			return
		}
		if c.Init == patroni.Initialized && c.SystemID == 0 {
			t.Error("initialized without a system identifier")
		}
		for _, m := range c.Members {
			if lag, known := c.Lag(m); lag < 0 || !known && lag != 0 {
				t.Errorf("lag %d, %v", lag, known)
			}
			if c.SyncStanding(m.Name) != patroni.NotSync && !c.Sync.Valid {
				t.Error("a standing out of an invalid sync key")
			}
			if (m.Host == "") != (m.Port == 0) {
				t.Errorf("host %q, port %d", m.Host, m.Port)
			}
		}
		if c.Sync.Valid && !c.Dynamic.Known {
			t.Error("the sync key counts without a configuration")
		}
	})
}

// FuzzTimelines: a history that is accepted is one PostgreSQL would accept.
func FuzzTimelines(f *testing.F) {
	f.Add(`[[1,25165824,"no recovery target specified","2026-05-01T10:00:00+00:00","pg1"],[2,67109024,"x"]]`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		rows, err := patroni.ParseTimelines(text)
		if err != nil {
			return
		}
		h, err := rows.History()
		if err != nil || h.Timeline == 1 {
			return
		}
		for i := range h.Forks {
			h.Forks[i].Reason = "" // may hold line breaks, which a file cannot
		}
		again, err := pg.ParseHistory(h.Timeline, h.Encode())
		if err != nil || !again.Equal(h) {
			t.Errorf("%s: %v, %v", text, h, err)
		}
	})
}

func FuzzReadConfig(f *testing.F) {
	f.Add(fullConfig, "PATRONI_ETCD3_HOSTS=a:1,b:2")
	f.Add(goodConfig, "PATRONI_CITUS_GROUP=1")
	f.Add("scope: a\nconsul: {url: 'http://h'}\n", "PATRONI_CONSUL_LABELS=a: b")
	dir := f.TempDir()
	path := filepath.Join(dir, "patroni.yml")
	f.Fuzz(func(t *testing.T, yml, variable string) {
		if err := os.WriteFile(path, []byte(yml), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := patroni.ReadConfig(path, []string{variable})
		if err != nil {
			return
		}
		c.Findings(patroni.Dynamic{})
		if strings.Contains(c.Namespace, "//") {
			t.Errorf("namespace %q", c.Namespace)
		}
	})
}

func FuzzSplitCommand(f *testing.F) {
	f.Add(`pgtender archive-push "a b" 'c' \d`)
	f.Fuzz(func(t *testing.T, command string) {
		words, err := patroni.SplitCommand(command)
		if err != nil {
			return
		}
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		again, err := patroni.SplitCommand(strings.Join(quoted, " "))
		if err != nil || strings.Join(again, "\x00") != strings.Join(words, "\x00") {
			t.Errorf("%q: %q, then %q, %v", command, words, again, err)
		}
	})
}
