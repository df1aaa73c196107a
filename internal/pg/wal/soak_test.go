package wal_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/soak"
)

const (
	soakRounds  = 28 // each segment size on each of four majors
	soakRecords = 10_000_000
)

// TestSoakRecordsEqualTheServers compares ten million records, of servers of all
// kinds at varied work, with what the server's own programs say of them: every
// record and reference with pg_waldump or pg_walinspect, and from 17 on every map
// with the server's summaries. It goes on where an earlier run stopped. A round is
// repeated with -run 'TestSoakRecordsEqualTheServers/^NUMBER,'.
func TestSoakRecordsEqualTheServers(t *testing.T) {
	soak.Skip(t)
	majors := slices.DeleteFunc(pgtest.Majors(t), func(m int) bool { return m < 15 })
	passed := soak.Open(t, "wal-soak")
	for n := range soakRounds {
		s := randomSetting(n, majors)
		name := fmt.Sprintf("%d-%d", s.major, n)
		if passed.Passed(name) {
			continue
		}
		t.Run(fmt.Sprintf("%d, PostgreSQL %d, %d MiB, %v", n, s.major, s.segment, s.config), func(t *testing.T) {
			l := work(t, s)
			l.countManagers()
			l.inspectsAlike(t)
			l.condenses(t)
			if s.major == 15 {
				l.equalsWaldump(t)
			} else {
				l.equalsWalinspect(t)
			}
			if s.major >= 17 {
				l.equalsSummaries(t)
			}
			l.Stop(t, pgtest.Fast)
			l.coversPages(t)
			if !t.Failed() {
				passed.Note(t, name, l.compared)
			}
		})
	}
	for _, m := range majors {
		t.Logf("PostgreSQL %d: %v", m, passed.Total(strconv.Itoa(m)+"-"))
	}
	sum := passed.Total("")
	t.Logf("all: %v", sum)
	if sum["rounds"] >= soakRounds {
		isVaried(t, sum)
	}
	if sum["rounds"] >= soakRounds && sum["records"] < soakRecords {
		t.Errorf("%d rounds compared %d records, which is too few", sum["rounds"], sum["records"])
	}
}

// randomSetting gives the n-th server: majors and segment sizes in turn, all else
// at random.
func randomSetting(n int, majors []int) setting {
	random := rand.New(rand.NewPCG(uint64(n), 9))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	compression := []string{"off", "pglz"}
	if majors[n%len(majors)] == 15 {
		compression = append(compression, "lz4", "zstd") // the others are built without
	}
	return setting{
		major: majors[n%len(majors)], segment: 1 << (n / len(majors) % 7), checksums: random.IntN(2) == 0,
		config: map[string]string{
			"wal_compression":          pick(compression...),
			"wal_level":                pick("replica", "replica", "logical"),
			"autovacuum":               pick("on", "off"),
			"autovacuum_naptime":       "1",
			"wal_log_hints":            pick("on", "off"),
			"track_commit_timestamp":   pick("on", "off"),
			"full_page_writes":         pick("on", "on", "on", "off"),
			"wal_consistency_checking": pick("", "", "gist,brin,sequence"),
		},
		steps: 60, crowd: true, seed: uint64(n) + 1000,
	}
}

// countManagers notes how many records each resource manager has written.
func (l *live) countManagers() {
	for _, r := range l.records {
		l.compared[managers[r.Rmgr]]++
	}
}

// isVaried fails unless every resource manager has written records. One round may lack
// those of a kind of index that its work did not come to.
func isVaried(t *testing.T, sum soak.Tally) {
	t.Helper()
	for _, m := range managers {
		// What the commit log, commit times and origins write has no blocks, and
		// comes rarely or never.
		rare := slices.Contains([]string{"CLOG", "CommitTs", "ReplicationOrigin"}, m)
		if sum[m] == 0 && !rare {
			t.Errorf("there is no record of %s", m)
		}
	}
}

// crowd lets two sessions write small transactions, so that records and row locks
// of several stand between each other, until the function that it gives is called.
func (l *live) crowd(t *testing.T) (leave func()) {
	t.Helper()
	l.Exec(t, "CREATE TABLE crowd WITH (fillfactor = 50) AS SELECT i AS id, 0 AS v FROM generate_series(1, 2000) i",
		"ALTER TABLE crowd ADD PRIMARY KEY (id)")
	ctx, cancel := context.WithCancel(t.Context())
	var sessions errgroup.Group
	for i := range 2 {
		sessions.Go(func() error { return l.join(ctx, i) })
	}
	return func() {
		t.Helper()
		cancel()
		if err := sessions.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// join writes as one of a crowd until ctx ends. No transaction waits for more
// than one row, so there are no deadlocks.
func (l *live) join(ctx context.Context, number int) error {
	conn, err := server.Connect(context.WithoutCancel(ctx), l.Options())
	if err != nil {
		return err
	}
	defer conn.Close()
	for i := 0; ctx.Err() == nil; i++ {
		row := (i*7 + number) % 2000
		for _, s := range []string{
			"BEGIN",
			fmt.Sprintf("SELECT 1 FROM public.crowd WHERE id %% 400 = %d FOR KEY SHARE", row%400),
			"SAVEPOINT s",
			fmt.Sprintf("UPDATE public.crowd SET v = v + 1 WHERE id = %d", row+1),
			[]string{"RELEASE s", "ROLLBACK TO s"}[i/3%2],
			[]string{"COMMIT", "COMMIT", "ROLLBACK"}[i%3],
		} {
			if err := conn.Exec(context.WithoutCancel(ctx), s); err != nil {
				return fmt.Errorf("%w\nin: %s", err, s)
			}
		}
	}
	return nil
}
