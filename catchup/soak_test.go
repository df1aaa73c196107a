package catchup_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/soak"
)

// soakRounds is how many random clusters TestSoakMembersComeBack makes.
const soakRounds = 500

// TestSoakMembersComeBack makes one random failover after the other. The rounds
// are numbered, and those that have passed are listed in a file (see soak.Open), so
// that it goes on after an interruption. A round is repeated with -run 'TestSoakMembersComeBack/NUMBER,'.
func TestSoakMembersComeBack(t *testing.T) {
	soak.Skip(t)
	passed := soak.Open(t, "catchup-soak")
	for n := range soakRounds {
		if passed.Passed(strconv.Itoa(n)) {
			continue
		}
		b := randomBranch(n, pgtest.Majors(t))
		t.Run(fmt.Sprintf("%d, %s", n, b), func(t *testing.T) {
			t.Parallel()
			x := newBranched(t, b)
			x.back(t, x.expected(t, n))
			if !t.Failed() {
				passed.Note(t, strconv.Itoa(n), nil)
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
