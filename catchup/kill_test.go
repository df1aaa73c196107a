package catchup_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/servertest"
	"github.com/pgtender/pgtender/internal/soak"
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
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	servertest.EndWithParent(cmd.SysProcAttr, syscall.SIGKILL)
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
	if soak.Wanted() {
		return 100
	}
	return 4
}

// TestAKilledRunIsResumed kills a run at a random moment, then the one that
// resumes it, until one comes through. What comes out must be what a run makes
// that nobody disturbs, byte for byte; and that starts.
func TestAKilledRunIsResumed(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{Checksums: true})
	space := pgtest.Dir(t)
	l.primary.Exec(t, fmt.Sprintf("CREATE TABLESPACE away LOCATION '%s'", space),
		"CREATE TABLE t TABLESPACE away AS SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 60000) AS i")
	l.primary.EnableAMCheck(t)
	l.primary.Workload(3).Run(t, 5)
	l.backup(t, l.primary)
	want := l.primary.Dump(t)
	l.archived(t)

	purposes := []child{
		{Purpose: catchup.Restore, Command: l.restoreCommand(1)},
		{Purpose: catchup.Replica, Leader: l.leader(t)},
	}
	began := time.Now()
	undisturbed := make([]map[string]string, len(purposes))
	for i := range purposes {
		c := purposes[i].in(pgtest.Dir(t), space)
		l.child(t, "022", c)
		undisturbed[i] = tree(t, c)
		defer l.compare(t, c, want)
	}
	whole := time.Since(began) / 2 // somewhat more than a run takes

	seed := uint64(time.Now().UnixNano())
	if fixed := os.Getenv("PGTENDER_SEED"); fixed != "" {
		seed = number(t, fixed)
	}
	random := rand.New(rand.NewPCG(seed, 0))
	kills, resumed := 0, 0
	for round := range rounds() {
		c := purposes[round%2].in(pgtest.Dir(t), space)
		for killed := 0; ; killed++ {
			// In the end one comes through.
			if l.killAfter(t, c, time.Duration(random.Int64N(int64(whole)*int64(2+killed)/4))) {
				break
			}
			kills++
			_, started := os.Stat(filepath.Join(c.Dir, ".pgtender", "state.json"))
			if _, err := os.Stat(filepath.Join(c.Dir, pg.ControlPath)); err == nil && errors.Is(started, os.ErrNotExist) {
				// Killed between its last step and its end.
				if err := os.RemoveAll(filepath.Join(c.Dir, ".pgtender")); err != nil {
					t.Fatal(err)
				}
				break
			}
			if journal, err := os.ReadFile(filepath.Join(c.Dir, ".pgtender", "journal")); err == nil && bytes.Count(journal, []byte("\n")) > 1 {
				resumed++
			}
		}
		if diff := cmp.Diff(undisturbed[round%2], tree(t, c)); diff != "" {
			t.Fatalf("PGTENDER_SEED=%d, round %d: %s", seed, round, diff)
		}
	}
	t.Logf("PGTENDER_SEED=%d, a run takes %s: %d kills, %d of them with files that were kept", seed, whole, kills, resumed)
	if kills == 0 {
		t.Error("nothing was killed")
	}
}

// in gives the child's directories below base.
func (c child) in(base, space string) child {
	c.Dir = filepath.Join(base, "data")
	c.Tablespaces = map[string]string{space: filepath.Join(base, "space")}
	return c
}

// tree gives all names below the base of a child's directories, with mode and
// a digest of the content.
func tree(t *testing.T, c child) map[string]string {
	t.Helper()
	base := filepath.Dir(c.Dir)
	out := map[string]string{}
	err := filepath.WalkDir(base, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, text := strings.TrimPrefix(path, base), info.Mode().String()
		switch e.Type() {
		case fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " " + strings.ReplaceAll(to, base, "")
		case 0:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = bytes.ReplaceAll(content, []byte(base), nil) // in tablespace_map
			text += fmt.Sprintf(" %d %s", len(content), repo.DigestOf(content))
		}
		out[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
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
	server.Exec(t, "CHECKPOINT")
	server.Checksums(t)
}
