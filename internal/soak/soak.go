// Package soak keeps account of tests that take hours, so that they can be done
// in parts: what has passed is a line in a file, and is not done again.
package soak

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Skip skips a test that is for soaks alone: those that PGTENDER_SOAK asks for.
func Skip(t testing.TB) {
	t.Helper()
	if !Wanted() {
		t.Skip("takes hours: set PGTENDER_SOAK=1")
	}
}

// Wanted reports whether PGTENDER_SOAK asks for the long form of tests.
func Wanted() bool { return os.Getenv("PGTENDER_SOAK") != "" }

// Tally is what was counted, by name. A name has no spaces and no "=".
type Tally map[string]int

// Add adds what another counted.
func (c Tally) Add(other Tally) {
	for name, n := range other {
		c[name] += n
	}
}

// String gives "name=number" by name, separated by spaces.
func (c Tally) String() string {
	words := make([]string, 0, len(c))
	for _, name := range slices.Sorted(maps.Keys(c)) {
		words = append(words, fmt.Sprintf("%s=%d", name, c[name]))
	}
	return strings.Join(words, " ")
}

// Rounds is a file with a line for each round that has passed: its name, which
// is a word, and its tally. It is safe for concurrent use, by processes too:
// what another one has noted is known from the next Note on.
type Rounds struct {
	path string

	mu   sync.Mutex
	done map[string]Tally
}

// Open reads the rounds of the soak with the given name from a file in the
// directory PGTENDER_SOAK_DIR, or else in the cache, PGTENDER_CACHE. Without
// either nothing is remembered.
func Open(t testing.TB, name string) *Rounds {
	t.Helper()
	dir := os.Getenv("PGTENDER_SOAK_DIR")
	if dir == "" {
		dir = os.Getenv("PGTENDER_CACHE")
	}
	if dir == "" {
		dir = t.TempDir()
	}
	r := &Rounds{path: filepath.Join(dir, name)}
	r.read(t)
	if len(r.done) > 0 {
		t.Logf("%d rounds have passed before, see %s", len(r.done), r.path)
	}
	return r
}

// read takes over what the file says; nobody else has r, or mu is held.
func (r *Rounds) read(t testing.TB) {
	t.Helper()
	r.done = map[string]Tally{}
	content, err := os.ReadFile(r.path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) > 0 {
			r.done[words[0]] = parse(t, r.path, words[1:])
		}
	}
}

func parse(t testing.TB, path string, words []string) Tally {
	t.Helper()
	c := Tally{}
	for _, w := range words {
		name, number, _ := strings.Cut(w, "=")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("%s: %q is no count: %v", path, w, err)
		}
		c[name] = n
	}
	return c
}

// Passed reports whether a round has passed, now or in an earlier run.
func (r *Rounds) Passed(round string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.done[round]
	return ok
}

// Note writes down that a round has passed, and what was counted in it.
func (r *Rounds) Note(t testing.TB, round string, c Tally) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(strings.TrimSpace(round+" "+c.String()) + "\n"); err != nil {
		t.Fatal(err)
	}
	r.read(t)
}

// Total adds up the tallies of the rounds whose name begins with prefix, and
// counts them as "rounds".
func (r *Rounds) Total(prefix string) Tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := Tally{}
	for round, c := range r.done {
		if strings.HasPrefix(round, prefix) {
			sum.Add(c)
			sum["rounds"]++
		}
	}
	return sum
}
