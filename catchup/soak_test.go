package catchup_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// soakRounds is how many random clusters TestSoakMembersComeBack makes.
const soakRounds = 500

// TestSoakMembersComeBack makes one random failover after the other. The rounds
// are numbered, and those that have passed are listed in a file (in the directory
// PGTENDER_SOAK_DIR, else the cache), so that it goes on after an interruption. A
// round is repeated with -run 'TestSoakMembersComeBack/NUMBER,'.
func TestSoakMembersComeBack(t *testing.T) {
	if !soak() {
		t.Skip("takes hours: set PGTENDER_SOAK=1")
	}
	passed := openRounds(t)
	for n := range soakRounds {
		if passed.has(n) {
			continue
		}
		b := randomBranch(n, pgtest.Majors(t))
		t.Run(fmt.Sprintf("%d, %s", n, b), func(t *testing.T) {
			t.Parallel()
			x := newBranched(t, b)
			x.back(t, x.expected(t, n))
			if !t.Failed() {
				passed.note(t, n)
			}
		})
	}
}

// randomBranch gives the n-th failover.
func randomBranch(n int, majors []int) branch {
	random := rand.New(rand.NewPCG(uint64(n), 5))
	pick := func(of []string) string { return of[random.IntN(len(of))] }
	return branch{
		major: majors[random.IntN(len(majors))], stop: pick(stops), taken: pick(takes), protect: pick([]string{"checksums", "checksums", "hints", "none"}),
		space: random.IntN(3) == 0, archives: random.IntN(2) == 0, seed: uint64(n) + 100,
	}
}

// expected gives the way that the round is to take: the one that the plan is to
// choose, every fifth time page hashes.
func (x *branched) expected(t testing.TB, n int) catchup.RungName {
	t.Helper()
	p, _ := x.chosen(t, catchup.ByMaps)
	want := catchup.ByMaps
	switch {
	case !x.diverged():
		if p.Choice == catchup.ByReplay {
			want = catchup.ByReplay // the archive has all WAL
		}
	case x.protect == "none", x.stop == "diverged standby" && p.Local.Unknown != "":
		// The server that the standby followed has not archived, and the standby
		// has no WAL from before its restartpoint.
		want = catchup.ByHashes
	}
	if p.Choice != want {
		t.Fatalf("chose %q, not %q: %+v", p.Choice, want, p.Rungs)
	}
	if want == catchup.ByReplay {
		want = catchup.ByMaps // which is open too where the backup is newer
		if x.taken == "before the fork" {
			want = catchup.ByHashes
		}
	}
	if n%5 == 4 {
		return catchup.ByHashes
	}
	return want
}

// roundsFile lists the rounds that have passed, one a line.
type roundsFile struct {
	mu   sync.Mutex
	path string
	done map[int]bool
}

func openRounds(t testing.TB) *roundsFile {
	t.Helper()
	dir := os.Getenv("PGTENDER_SOAK_DIR")
	if dir == "" {
		dir = os.Getenv("PGTENDER_CACHE")
	}
	if dir == "" {
		dir = t.TempDir()
	}
	r := &roundsFile{path: filepath.Join(dir, "catchup-soak"), done: map[int]bool{}}
	f, err := os.Open(r.path)
	if os.IsNotExist(err) {
		return r
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if n, err := strconv.Atoi(strings.TrimSpace(lines.Text())); err == nil {
			r.done[n] = true
		}
	}
	t.Logf("%d rounds have passed before, see %s", len(r.done), r.path)
	return r
}

func (r *roundsFile) has(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done[n]
}

func (r *roundsFile) note(t testing.TB, n int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(f, n); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
