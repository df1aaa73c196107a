package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/mem"
	"github.com/pgtender/pgtender/internal/config"
	"github.com/pgtender/pgtender/internal/finding"
)

// The same timer on every member must not be content with no backup at all.
func TestElectIsQuietOnlyWhereAnotherMemberIsTheSource(t *testing.T) {
	server := mem.NewServer()
	for key, value := range map[string]string{
		"initialize": "7700000000000000001",
		"leader":     "pg1",
		"members/pg1": `{"role":"primary","state":"running","timeline":1,"xlog_location":83886744,"version":"4.1.5",` +
			`"conn_url":"postgres://127.0.0.1:1/postgres","api_url":"http://127.0.0.1:1/patroni"}`,
	} {
		server.Put("service/main/"+key, value)
	}
	for _, tc := range []struct {
		name, self, leader, member string
		want                       string // "" is quiet
	}{
		{name: "another member is the source", self: "pg2", leader: "allow"},
		{name: "policy leaves no source", self: "pg2", leader: "never", want: "no member can be the source"},
		{name: "no source on the leader either", self: "pg1", leader: "never", want: "no member can be the source"},
		{name: "a member is asked for that does not exist", self: "pg1", leader: "allow", member: "pg11", want: "pg11 is no member"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := &node{Config: config.Default(), log: slog.New(slog.DiscardHandler), opened: &opened{dcsStore: server.Open(mem.Options{})}}
			n.Cluster, n.DataDir, n.Backup.Leader = "main", t.TempDir(), tc.leader
			n.DCS = config.DCS{Type: "etcd3", Hosts: []string{"127.0.0.1:1"}, Member: tc.self}
			err := (&app{}).backup(t.Context(), n, backupFlags{elect: true, kind: "auto", member: tc.member})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

// PostgreSQL runs restore_command in the data directory, wherever restore was run.
func TestARestoreCommandWorksFromAnyDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("own.yml", []byte("repository: file:///srv/repo\ncluster: main+1/7700000000000000001\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &app{configPath: "own.yml", streams: streams{err: io.Discard}}
	n, err := a.node()
	if err != nil {
		t.Fatal(err)
	}
	id, err := n.scope()
	if err != nil || id.Scope != "main" || id.Group != "1" || id.SystemID != scriptSystemID {
		t.Fatalf("the cluster is %+v, %v", id, err)
	}
	got, err := n.restoreCommand(a.configRead, id, catchup.Plan{Timeline: 3})
	want := " -c " + filepath.Join(dir, "own.yml") + " --repository file:///srv/repo --cluster main+1/7700000000000000001 archive-get --timeline 3"
	if err != nil || !strings.Contains(got, want) {
		t.Errorf("restore_command is %s, want in it%s (%v)", got, want, err)
	}
	n.Cluster = "main+one"
	if _, err := n.scope(); err == nil {
		t.Error("a group that is no number is accepted")
	}
}

// Whoever reads the message at night did not write the configuration.
func TestADCSThatDoesNotAnswerComesWithAdvice(t *testing.T) {
	down := mem.NewServer().Open(mem.Options{Fault: func(context.Context, mem.Op, string) (bool, error) { return false, dcs.ErrUnavailable }})
	n := &node{Config: config.Default(), log: slog.New(slog.DiscardHandler), opened: &opened{dcsStore: down}}
	n.Cluster, n.DCS = "main", config.DCS{Type: "etcd3", Hosts: []string{"127.0.0.1:1"}, Member: "pg1"}
	_, err := n.source(t.Context(), "")
	if text := message(err); !strings.Contains(text, "DCS is unavailable") || !strings.Contains(text, "hint: check the DCS section") {
		t.Errorf("the message is %q", text)
	}
}

// Two members with the same fault need the same advice.
func TestAdviceIsGivenOnce(t *testing.T) {
	err := errors.Join(finding.WithHint(errors.New("a is away"), "start it"), finding.WithHint(errors.New("b is away"), "start it"), finding.WithHint(errors.New("c is full"), "make room"))
	want := "error: a is away\n       b is away\n       c is full\nhint: start it\nhint: make room\n"
	if got := message(err); got != want {
		t.Errorf("the message is\n%swant\n%s", got, want)
	}
}

func TestWordsReachTheShellWhole(t *testing.T) {
	for _, word := range []string{"plain", "/usr/bin/pgtender", "s3://b/p", "two words", "it's", `"`, "$HOME `id` \\ ;", "", "übung", "a\nb"} {
		out, err := exec.Command("sh", "-c", "printf %s "+shellQuote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q becomes %q (%v)", word, out, err)
		}
	}
	// PostgreSQL makes one per cent sign of two before the shell sees them.
	if got := shellQuote("100%f"); got != "100%%f" {
		t.Errorf("per cent becomes %s", got)
	}
}

func TestTimesAreReadAsPostgreSQLPrintsThem(t *testing.T) {
	want := time.Date(2026, 8, 1, 1, 0, 0, 500_000_000, time.UTC)
	for _, s := range []string{"2026-08-01 03:00:00.5+02", "2026-08-01 03:00:00.5+02:00", "2026-08-01 03:00:00.5+0200", "2026-08-01T01:00:00.5Z", "2026-08-01 01:00:00.5 UTC", "2026-08-01 01:00:00.5Z"} {
		if got, err := parseTime(s); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v (%v)", s, got, err)
		}
	}
	if got, err := parseTime("2026-08-01 03:00:00"); err != nil || !got.Equal(time.Date(2026, 8, 1, 3, 0, 0, 0, time.Local)) {
		t.Errorf("without a zone: %v (%v)", got, err)
	}
	for _, s := range []string{"yesterday", "2026-08-01", "2026-08-01 03:00:00 CEST", "2026-13-01 03:00:00", ""} {
		if got, err := parseTime(s); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}

func TestTargetsAreReadFromFlags(t *testing.T) {
	for name, tc := range map[string]struct {
		flags targetFlags
		want  string // the target, or words of the error
		fails bool
	}{
		"nothing is the end of the archive": {flags: targetFlags{timeline: "latest"}, want: "the end of the archive"},
		"LSN":                               {flags: targetFlags{lsn: "0/5000000", timeline: "current"}, want: "LSN 0/5000000"},
		"transaction":                       {flags: targetFlags{xid: "700"}, want: "transaction 700"},
		"restore point":                     {flags: targetFlags{name: "before"}, want: `restore point "before"`},
		"end of the backup":                 {flags: targetFlags{immediate: true, action: "promote"}, want: "the end of the backup"},
		"two targets":                       {flags: targetFlags{lsn: "0/1", xid: "3"}, want: "more than one", fails: true},
		"no LSN":                            {flags: targetFlags{lsn: "five"}, want: "--target-lsn", fails: true},
		"no transaction":                    {flags: targetFlags{xid: "-1"}, want: "--target-xid", fails: true},
		"no time":                           {flags: targetFlags{time: "soon"}, want: "--target-time", fails: true},
		"no timeline":                       {flags: targetFlags{timeline: "0"}, want: "--target-timeline", fails: true},
		"no action":                         {flags: targetFlags{action: "explode"}, want: "explode", fails: true},
		"exclusive of what":                 {flags: targetFlags{exclusive: true}, want: "exclusive", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tc.flags.target()
			switch {
			case !tc.fails && (err != nil || got.String() != tc.want):
				t.Errorf("target is %s (%v), want %s", got, err, tc.want)
			case tc.fails && (err == nil || !strings.Contains(err.Error(), tc.want) || !errors.As(err, new(usageError))):
				t.Errorf("error is %v, want usage about %q", err, tc.want)
			}
		})
	}
	if got, _ := (&targetFlags{timeline: "3"}).target(); got != (catchup.Target{Timeline: 3}) {
		t.Errorf("timeline 3 is %+v", got)
	}
}

// An outage of the DCS costs the time-out once in a while, not for each file.
func TestADCSThatDoesNotAnswerIsLeftAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pg_wal")
	if err := os.MkdirAll(filepath.Join(dir, "archive_status"), 0o700); err != nil {
		t.Fatal(err)
	}
	b := breakerFor(filepath.Join(dir, "000000010000000000000001"))
	asked := 0
	answer := dcs.ErrUnavailable
	ask := func(context.Context) error { asked++; return answer }
	for range 3 {
		if err := b.do(t.Context(), ask); err == nil {
			t.Error("no error while the DCS is down")
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times, want once", asked)
	}
	old := time.Now().Add(-dcsPause)
	if err := os.Chtimes(b.path, old, old); err != nil {
		t.Fatal(err)
	}
	answer = nil
	for range 2 {
		if err := b.do(t.Context(), ask); err != nil {
			t.Errorf("after the pause: %v", err)
		}
	}
	if asked != 3 || exists(b.path) {
		t.Errorf("asked %d times, want 3", asked)
	}
	answer = errors.New("no such key")
	b.do(t.Context(), ask)
	b.do(t.Context(), ask)
	if asked != 5 {
		t.Errorf("an answer that is an error stops questions: asked %d times, want 5", asked)
	}
	if (breakerFor("/tmp/000000010000000000000001") != breaker{}) {
		t.Error("a file is kept outside of pg_wal")
	}
}

func TestProgressIsLoggedEveryTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m := &meter{log: slog.New(slog.NewTextHandler(&log, nil)), now: time.Now}
		for i := range int64(300) {
			m.report("copy", i<<20, 300<<20)
			time.Sleep(100 * time.Millisecond)
		}
		m.report("commit", 0, 0)
		m.end()
		if got := strings.Count(log.String(), "msg=progress"); got != 2 {
			t.Errorf("%d records of progress in 30 s, want 2:\n%s", got, log.String())
		}
		for _, want := range []string{"phase=copy", "phase=commit", `rate="10.0 MB/s"`, `total="300.0 MB"`, "percent=33"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("%s is not in:\n%s", want, log.String())
			}
		}
	})
}

func TestProgressOnATerminalIsOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		m := &meter{out: &out, log: slog.New(slog.DiscardHandler), now: time.Now}
		for i := range int64(10) {
			m.report("copy", i<<20, 10<<20)
			time.Sleep(time.Second)
		}
		m.end()
		if text := out.String(); strings.Contains(text, "\n") || !strings.Contains(text, "copy  90 % 9.0 MB of 10.0 MB, 1.0 MB/s, 1s left") || !strings.HasSuffix(text, " \r") {
			t.Errorf("drew %q", text)
		}
	})
}

func TestTheDataDirectoryOfAWALFile(t *testing.T) {
	real, elsewhere := t.TempDir(), t.TempDir()
	for _, name := range []string{"PG_VERSION", "global/pg_control", "standby.signal"} {
		path := filepath.Join(real, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// pg_wal is a link to another disk.
	if err := os.Symlink(elsewhere, filepath.Join(real, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(elsewhere)
	if got := dataDirOf(filepath.Join(real, "pg_wal", "RECOVERYXLOG")); got != real {
		t.Errorf("by an absolute path: %q", got)
	}
	if got := dataDirOf("RECOVERYXLOG"); got != "" {
		t.Errorf("elsewhere: %q", got)
	}
	t.Chdir(real)
	for _, path := range []string{"pg_wal/RECOVERYXLOG", ""} {
		if got := dataDirOf(path); got != real || !standbyMode(got) {
			t.Errorf("in the data directory, %q: %q", path, got)
		}
	}
	if standbyMode("") || standbyMode(elsewhere) {
		t.Error("standby mode without standby.signal")
	}
}
