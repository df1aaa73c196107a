package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/servertest"
)

// TestMain lets the test program be what the bench starts itself as.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		os.Exit(start(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestUsage(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string // in standard error
	}{
		{"an unknown flag", []string{"--speed"}, "-speed"},
		{"an argument", []string{"all"}, `argument "all" is not known`},
		{"no rounds", []string{"--runs", "0"}, "--runs 0: want 1 or more"},
		{"more than all", []string{"--wide", "101"}, "--wide 101: want 0 to 100"},
		{"a size that is none", []string{"--jobs", "incremental", "--sizes", "1,x"}, "want numbers of MB"},
		{"peers where nobody is", []string{"--jobs", "incremental", "--sizes", "1,2", "--peers-at", "2,3"}, "want some of --sizes"},
		{"sizes for other jobs", []string{"--sizes", "1"}, "--sizes is for --jobs incremental"},
		{"an unknown job", []string{"--jobs", "backup,verify"}, `"verify" is none of backup, restore, incremental, push, backlog, backlog-s3, recovery`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			if code := run(t.Context(), tt.args, &out, &errOut); code != 2 || !strings.Contains(errOut.String(), tt.want) || out.Len() > 0 {
				t.Errorf("exit status %d, %q, want 2 and %q", code, errOut.String(), tt.want)
			}
		})
	}
}

func TestWaitsAreTakenFromTheOutput(t *testing.T) {
	s := time.Second
	u := usage{lines: []line{
		{1 * s, "P00   INFO: execute non-exclusive backup start: backup begins after the requested immediate checkpoint completes"},
		{3 * s, "P00   INFO: backup start archive = 000000010000000000000002, lsn = 0/2000028"},
		{3 * s, "P00   INFO: check archive for prior segment 000000010000000000000001"},
		{20 * s, "P00   INFO: execute non-exclusive backup stop and wait for all WAL segments to archive"},
		{21 * s, "P00   INFO: backup stop archive = 000000010000000000000002, lsn = 0/2000100"},
		{22 * s, "P00   INFO: check archive for segment(s) 000000010000000000000002:000000010000000000000002"},
		{26 * s, "P00   INFO: new backup label = 20260101-000000F"},
	}}
	checkpoint, wal, err := (&pgbackrest{}).waits(u)
	if err != nil || checkpoint != 2*s || wal != 5*s {
		t.Errorf("checkpoint %v, WAL %v, %v; want 2s, 5s", checkpoint, wal, err)
	}
	u.out = []byte(`{"backup": {}, "checkpoint_ns": 1500000000, "wal_ns": 0}`)
	checkpoint, wal, err = (&pgtender{}).waits(u)
	if err != nil || checkpoint != 1500*time.Millisecond || wal != 0 {
		t.Errorf("checkpoint %v, WAL %v, %v; want 1.5s, 0s", checkpoint, wal, err)
	}
	for _, bad := range []string{"", "{}", `{"checkpoint_ns": 1}`} {
		if _, _, err := parseResult([]byte(bad)); err == nil {
			t.Errorf("the result %q was taken", bad)
		}
	}
}

func TestProcessorTimeOfAProcess(t *testing.T) {
	got, err := parseCPU("123 (post gres) S 1 123 123 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 1 0")
	if err != nil || got != 1100*time.Millisecond {
		t.Errorf("%v, %v, want 1.1s", got, err)
	}
	for _, bad := range []string{"", "1 (x) S 1", "1 (x) S 1 1 1 0 -1 1 1 1 0 0 a 22 33 44 20"} {
		if _, err := parseCPU(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestBlocksAreKnownSince246(t *testing.T) {
	for version, want := range map[string]bool{"pgBackRest 2.45": false, "pgBackRest 2.46": true, "pgBackRest 2.59.1": true, "pgBackRest 3.0": true, "pgBackRest 2.60.0dev": true} {
		if got, err := hasBlock(version); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", version, got, err, want)
		}
	}
	if _, err := hasBlock("no such command"); err == nil {
		t.Error("a version without a number was taken")
	}
}

func TestMedianOfTheRoundsRatios(t *testing.T) {
	r := &Report{order: []string{"pgtender", "peer"}}
	for round, f := range []struct{ our, their float64 }{{1, 2}, {9, 10}, {2, 8}} {
		r.keep(round, "peer", "backup", figures(usage{wall: seconds(f.their), cpu: seconds(f.their), server: seconds(f.their), rss: 1}, time.Second, 0, 200))
		r.keep(round, "pgtender", "backup", figures(usage{wall: seconds(f.our), cpu: seconds(f.our), rss: 3}, 0, 0, 100))
	}
	r.summarize()
	want := []Summary{
		{Tool: "pgtender", Job: "backup", Median: Figures{Wall: 2, Work: 2, CPU: 2, RSS: 3, Stored: 100}},
		{
			Tool: "peer", Job: "backup", Median: Figures{Wall: 8, Checkpoint: 1, Work: 7, CPU: 8, ServerCPU: 8, RSS: 1, Stored: 200},
			Ratios: &Ratios{Wall: 0.5, Work: 1, CPU: 0.25, Stored: 0.5},
		},
	}
	if diff := cmp.Diff(want, r.Summary); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	for name, test := range map[string]struct {
		values []float64
		want   float64
	}{"nothing": {nil, 0}, "one": {[]float64{3}, 3}, "an even number": {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(test.values); got != test.want {
			t.Errorf("median of %s: %v, want %v", name, got, test.want)
		}
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func TestPeerThatIsNotInstalledIsLeftOut(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho program 1.0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	m := &machine{dir: dir, note: &said}
	o := options{tools: "pgtender, pgbackrest", pgtender: program, pgbackrest: filepath.Join(dir, "missing")}
	tools, skipped, err := m.tools(t.Context(), o)
	if err != nil || len(tools) != 1 || tools[0].name() != "pgtender" || !cmp.Equal(skipped, []string{"pgbackrest"}) {
		t.Errorf("%v, left out %v, %v", tools, skipped, err)
	}
	if !strings.Contains(said.String(), "pgbackrest is left out") {
		t.Errorf("said %q", said.String())
	}
	for name, o := range map[string]options{
		"pgtender is not built": {tools: "pgtender", pgtender: o.pgbackrest},
		"an unknown tool":       {tools: "rsync"},
		"a tool named twice":    {tools: "pgtender,pgtender", pgtender: program},
	} {
		if _, _, err := m.tools(t.Context(), o); err == nil || errors.Is(err, errNotInstalled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWholeBench runs everything on a small cluster, with the peers that are
// installed.
func TestWholeBench(t *testing.T) {
	r := tiny(t, "--size", "60", "--segments", "1")
	if want := (len(r.Tools)) * 2; len(r.Runs) < want {
		t.Errorf("%d runs, want at least %d", len(r.Runs), want)
	}
	for _, run := range r.Runs {
		if run.Wall <= 0 || run.Work <= 0 || run.RSS <= 0 || run.Job == "backup" && (run.Stored <= 0 || run.Stored >= r.DataBytes) {
			t.Errorf("figures of %s by %s: %+v", run.Job, run.Tool, run.Figures)
		}
	}
}

// tiny runs the bench once with real servers.
func tiny(t *testing.T, args ...string) Report {
	t.Helper()
	if testing.Short() {
		t.Skip("it runs real servers")
	}
	if _, err := findPostgres(); err != nil {
		servertest.Missing(t, "%v", err)
	}
	program := filepath.Join(t.TempDir(), "pgtender")
	if out, err := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", program, "../../cmd/pgtender").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var out, errOut bytes.Buffer
	if code := run(t.Context(), append(args, "--runs", "1", "--pgtender", program, "--json"), &out, &errOut); code != 0 {
		t.Fatalf("exit status %d\n%s", code, errOut.String())
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestMembersComeBackInTheBench is each case of a member whose data is old; what
// was brought back is compared with the source by the bench itself.
func TestMembersComeBackInTheBench(t *testing.T) {
	r := tiny(t, "--size", "20", "--pages", "100", "--jobs", "catchup,rewind", "--tools", "pgtender,pg_rewind")
	for _, k := range comebacks {
		our := r.figures(ours, k.name)
		if len(our) != 1 || our[0].Wall <= 0 || our[0].Read <= 0 {
			t.Fatalf("%s: %+v", k.name, our)
		}
		if our[0].ServerRead >= blockSize {
			t.Errorf("%s: the primary read %d bytes", k.name, our[0].ServerRead)
		}
	}
	if peer := r.figures("pg_rewind", "rewind"); len(peer) != 1 || peer[0].ServerRead < 100*blockSize {
		t.Errorf("pg_rewind: %+v, and the source has 100 pages for it", peer)
	}
}

// TestAChainOfIncrementalBackups is the comparison by database size.
func TestAChainOfIncrementalBackups(t *testing.T) {
	r := tiny(t, "--sizes", "20", "--pages", "100", "--incrementals", "2", "--jobs", "incremental", "--tools", "pgtender")
	var jobs []string
	for _, l := range r.Chains {
		jobs = append(jobs, l.Job)
		if l.Wall <= 0 || l.Job == chainIncremental && (l.Pages == 0 || l.Stored <= 0 || l.Stored > 4*l.Compressed+1<<20) {
			t.Errorf("%s %d: %+v", l.Job, l.Number, l)
		}
	}
	if want := []string{chainFull, chainIncremental, chainIncremental, chainMedian, chainRestore, chainSynthetic, chainRestoreMade, chainFull, chainRestoreFull}; !cmp.Equal(jobs, want) {
		t.Errorf("%q, want %q", jobs, want)
	}
}

func TestLinesOfAChainAreComparedWithTheSmallestDatabaseAndWithThePeers(t *testing.T) {
	line := func(tool string, mb int, job string, n int, work, cpu float64) Chain {
		return Chain{SizeMB: mb, DataBytes: int64(mb) * 1e6, Tool: tool, Job: job, Number: n, Figures: Figures{Work: work, CPU: cpu, Stored: 30}, Compressed: 20}
	}
	r := &Report{Chains: []Chain{
		line(ours, 400, "incremental", 1, 3, 2), line(ours, 400, "incremental", 2, 3, 2), line(ours, 400, "incremental", 3, 6, 2), line(ours, 400, "restore", 3, 8, 8),
		line("peer", 400, "incremental", 1, 12, 4), line("peer", 400, "incremental", 2, 60, 4), line("peer", 400, "incremental", 3, 30, 8), line("peer", 400, "restore", 3, 4, 8),
		line(ours, 100, "incremental", 1, 2, 2), line(ours, 100, "incremental", 2, 2, 2), line(ours, 100, "incremental", 3, 3, 4), line(ours, 100, "restore", 3, 1, 1), line(ours, 100, "restore", 3, 3, 3),
	}}
	r.relate()
	type want struct {
		job               string
		over, cpuOver     float64
		peerWork, peerCPU float64
	}
	var got []want
	for _, l := range r.Chains {
		w := want{job: l.Job, over: l.Over, cpuOver: l.CPUOver}
		if l.Ratios != nil {
			w.peerWork, w.peerCPU = l.Ratios.Work, l.Ratios.CPU
		}
		got = append(got, w)
	}
	if diff := cmp.Diff([]want{
		{chainIncremental, 1.5, 1, 0, 0}, {chainIncremental, 1.5, 1, 0, 0}, {chainIncremental, 2, 0.5, 0, 0}, {chainMedian, 1.5, 1, 0, 0}, {chainRestore, 4, 4, 0, 0},
		{chainIncremental, 0, 0, 0.25, 0.5}, {chainIncremental, 0, 0, 0.05, 0.5}, {chainIncremental, 0, 0, 0.2, 0.25}, {chainMedian, 0, 0, 0.1, 0.5}, {chainRestore, 0, 0, 2, 1},
		{chainIncremental, 0, 0, 0, 0}, {chainIncremental, 0, 0, 0, 0}, {chainIncremental, 0, 0, 0, 0}, {chainMedian, 0, 0, 0, 0}, {chainRestore, 0, 0, 0, 0}, {chainRestore, 0, 0, 0, 0},
	}, got, cmp.AllowUnexported(want{})); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	var out strings.Builder
	if err := r.writeChains(&out, 3); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"incremental 1, pgtender", "incremental 3, pgtender", "median of incrementals, peer", "1.50", "0.25"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "incremental 2, ") {
		t.Error("the table has every incremental backup")
	}
}

func TestPagesOfARelationAreReadFromItsFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "16384")
	for name, at := range map[string]int64{path: 3, path + ".1": 1} {
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte{byte(at)}, blockSize), at*blockSize); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readBlocks(path, []int64{3, fileOfBlocks + 1})
	if err != nil || len(got) != 2*blockSize || got[0] != 3 || got[blockSize] != 1 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := readBlocks(path, []int64{4}); err == nil {
		t.Error("a page past the end was read")
	}
}

// TestTheArchiver archives in order, marks what is archived, and does not end before
// what a command left behind.
func TestTheArchiver(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	status := filepath.Join(dir, "pg_wal", "archive_status")
	if err := os.MkdirAll(status, 0o700); err != nil {
		t.Fatal(err)
	}
	a := archiver{Dir: dir, Segments: []string{"A", "B", "C"}}
	for _, s := range a.Segments {
		if err := os.WriteFile(filepath.Join(status, s+".ready"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	archive := func(command string) (string, error) {
		a.Command = command
		options, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), self, asArchiver, string(options)).Output()
		return string(out), err
	}
	marks := func() string {
		names, err := filepath.Glob(filepath.Join(status, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range names {
			names[i] = filepath.Base(names[i])
		}
		return strings.Join(names, " ")
	}
	if out, err := archive("test pg_wal/B !="); err == nil || strings.Contains(out, archiverEnds) || marks() != "A.done B.ready C.ready" {
		t.Errorf("a command that fails: %v, %q, marks %s", err, out, marks())
	}
	a.Segments = a.Segments[1:]
	// The one in the background ends once the archiver has said that all is archived.
	out, err := archive("(while [ -e pg_wal/archive_status/C.ready ]; do sleep 0.01; done; sleep 0.1; echo late >>log) </dev/null >/dev/null 2>&1 & echo >>log")
	log, readErr := os.ReadFile(filepath.Join(dir, "log"))
	if err := errors.Join(err, readErr); err != nil {
		t.Fatal(err)
	}
	if want := "pg_wal/B\npg_wal/C\nlate\nlate\n"; string(log) != want || marks() != "A.done B.done C.done" {
		t.Errorf("archived %q, want %q; marks %s", log, want, marks())
	}
	if want := archiverBegins + "\n" + archiverEnds + "\n"; out != want {
		t.Errorf("it says %q, want %q", out, want)
	}
}
