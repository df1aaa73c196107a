package catchup_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// command makes a child process that restores.
func (l *lab) command(t testing.TB, umask string, c child) *exec.Cmd {
	t.Helper()
	options, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(l.program)
	cmd := exec.Command("sh", append([]string{"-c", "umask " + umask + `; exec "$@"`, "sh"}, append(words, "restore", string(options))...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// child runs a restoring child process to its end.
func (l *lab) child(t testing.TB, umask string, c child) {
	t.Helper()
	if out, err := l.command(t, umask, c).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// rounds gives how often something is killed.
func rounds() int {
	if os.Getenv("PGTENDER_SOAK") != "" {
		return 100
	}
	return 10
}

// TestAKilledRunIsResumed kills a run at a random moment, then the one that
// resumes it, until one comes through. After each kill no server can start.
func TestAKilledRunIsResumed(t *testing.T) {
	l := newLab(t, pgtest.Options{Checksums: true})
	space := pgtest.Dir(t)
	l.primary.Exec(t, fmt.Sprintf("CREATE TABLESPACE away LOCATION '%s'", space),
		"CREATE TABLE t TABLESPACE away AS SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 60000) AS i")
	l.primary.EnableAMCheck(t)
	l.primary.Workload(3).Run(t, 10)
	l.backup(t, l.primary)
	want := l.primary.Dump(t)
	l.archived(t)

	began := time.Now()
	purposes := []child{
		{Purpose: catchup.Restore, Command: l.restoreCommand(1), Tablespaces: map[string]string{space: filepath.Join(pgtest.Dir(t), "0")}},
		{Purpose: catchup.Replica, Leader: l.leader(t), Tablespaces: map[string]string{space: filepath.Join(pgtest.Dir(t), "1")}},
	}
	for i := range purposes {
		purposes[i].Dir = filepath.Join(pgtest.Dir(t), "data")
		l.child(t, "022", purposes[i]) // how long it takes
	}
	whole := time.Since(began) / 2

	seed := uint64(time.Now().UnixNano())
	if fixed := os.Getenv("PGTENDER_SEED"); fixed != "" {
		seed = number(t, fixed)
	}
	t.Logf("PGTENDER_SEED=%d, a run takes %s", seed, whole)
	random := rand.New(rand.NewPCG(seed, 0))
	kills, resumed := 0, 0
	for round := range rounds() {
		c := purposes[round%2]
		base := pgtest.Dir(t)
		c.Dir = filepath.Join(base, "data")
		c.Tablespaces = map[string]string{space: filepath.Join(base, "space")}
		for killed := 0; ; killed++ {
			// In the end one comes through.
			after := time.Duration(random.Int64N(int64(whole) * int64(2+killed) / 2))
			if l.killAfter(t, c, after) {
				break
			}
			kills++
			if _, err := os.Stat(filepath.Join(c.Dir, pg.ControlPath)); !errors.Is(err, os.ErrNotExist) {
				t.Logf("round %d was killed when all was done", round)
			} else if journal, err := os.ReadFile(filepath.Join(c.Dir, ".pgtender/journal")); err == nil {
				if n := bytes.Count(journal, []byte("\n")); n > 1 {
					resumed++
				}
			}
		}
		l.compare(t, c, want)
	}
	t.Logf("%d kills, %d of them with files that were kept", kills, resumed)
	if kills == 0 {
		t.Error("nothing was killed")
	}
}

// killAfter runs a child and kills it after a time; it reports whether the
// child had ended well before.
func (l *lab) killAfter(t *testing.T, c child, after time.Duration) bool {
	t.Helper()
	cmd := l.command(t, "077", c)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	if err == nil {
		return true
	}
	if cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		return false
	}
	t.Fatalf("%v\n%s", err, out.String())
	return false
}

// compare starts what was restored and compares it with the source.
func (l *lab) compare(t *testing.T, c child, want string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(c.Dir, ".pgtender")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the work directory is there still: %v", err)
	}
	server := l.adopt(t, c.Dir)
	if c.Purpose == catchup.Replica {
		server.Configure(t, map[string]string{"primary_conninfo": l.primary.ConnString()})
		server.Start(t)
		server.CatchUp(t, l.primary)
	} else {
		server.Start(t)
		server.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	}
	if diff := cmp.Diff(want, server.Dump(t)); diff != "" {
		t.Error(diff)
	}
	server.AMCheck(t)
	server.Stop(t, pgtest.Fast)
	server.Checksums(t)
}
