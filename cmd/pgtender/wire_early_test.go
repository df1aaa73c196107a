package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/agent"
	"github.com/pgtender/pgtender/backup/archive/agent/early"
	"github.com/pgtender/pgtender/internal/pg"
)

const (
	earlySegment = "000000010000000000000003"
	earlyDest    = "pg_wal/RECOVERYXLOG"
)

// TestWhoIsAnsweredEarly: a command that would have come to this agent with this
// configuration, and no other.
func TestWhoIsAnsweredEarly(t *testing.T) {
	const content = "repository: file:///r\ncluster: demo\nagent: {socket: /s}\n"
	base := early.Question{
		Dir: "/data", Config: "/etc/c.yml", Content: content, Args: []string{"--config", "/etc/c.yml", "archive-push", "pg_wal/" + earlySegment},
		Environ: []string{},
	}
	s := &standIn{socket: "/s", fingerprint: fingerprintOf(t, content)}
	args := func(a ...string) []string { return append(a, "pg_wal/"+earlySegment) }
	get := func(a ...string) []string { return append(a, earlySegment, earlyDest) }
	for _, c := range []struct {
		name   string
		change func(*early.Question)
		want   string // of the error; "" if it is answered
	}{
		{"the same", func(*early.Question) {}, ""},
		{"by the environment", func(q *early.Question) {
			q.Args, q.Environ = args("archive-push"), []string{"PGTENDER_CONFIG=/etc/c.yml"}
		}, ""},
		{"flags in another place", func(q *early.Question) { q.Args = args("archive-push", "-c/etc/c.yml", "--log-level=debug") }, ""},
		{"other words for the same", func(q *early.Question) { q.Content += "# a comment\n" }, ""},
		{"another agent's settings", func(q *early.Question) { q.Environ = []string{"PGTENDER_AGENT_GRACE=2m"} }, ""},
		{"another file than it sent", func(q *early.Question) { q.Args[1] = "/etc/other.yml" }, "it would read /etc/other.yml"},
		{"a file of the working directory", func(q *early.Question) { q.Args[1] = "c.yml" }, "it would read c.yml"},
		{"another file by the environment", func(q *early.Question) {
			q.Args, q.Environ = args("archive-push"), []string{"PGTENDER_CONFIG=/etc/other.yml"}
		}, "it would read /etc/other.yml"},
		{"the default file", func(q *early.Question) { q.Args = args("archive-push") }, "it would read /etc/pgtender/pgtender.yml"},
		{"another repository in the file", func(q *early.Question) { q.Content = strings.Replace(content, ":///r", ":///other", 1) }, "another configuration"},
		{"another repository by a flag", func(q *early.Question) {
			q.Args = args("-c", "/etc/c.yml", "--repository", "file:///other", "archive-push")
		}, "another configuration"},
		{"another cluster by a flag", func(q *early.Question) { q.Args = args("-c", "/etc/c.yml", "--cluster=other", "archive-push") }, "another configuration"},
		{"another setting by the environment", func(q *early.Question) { q.Environ = []string{"PGTENDER_ARCHIVE_WORKERS=7"} }, "another configuration"},
		{"another socket", func(q *early.Question) { q.Environ = []string{"PGTENDER_AGENT_SOCKET=/other"} }, `the agent at "/other"`},
		{"no agent wanted", func(q *early.Question) { q.Environ = []string{"PGTENDER_AGENT_SOCKET="} }, `the agent at ""`},
		{"a log file", func(q *early.Question) { q.Environ = []string{"PGTENDER_LOG_FILE=/nowhere/log"} }, "a file of its own"},
		{"a setting that is none", func(q *early.Question) { q.Environ = []string{"PGTENDER_NONSENSE=1"} }, "PGTENDER_NONSENSE"},
		{"a key that is none", func(q *early.Question) { q.Content += "nonsense: 1\n" }, "nonsense"},
		{"a flag that is none", func(q *early.Question) { q.Args = args("--nonsense", "archive-push") }, "nonsense"},
		{"a log level that is none", func(q *early.Question) { q.Args = args("-c", "/etc/c.yml", "--log-level=loud", "archive-push") }, "loud"},
		{"a question for help", func(q *early.Question) { q.Args = args("-c", "/etc/c.yml", "archive-push", "--help") }, "help"},
		{"another command with that word", func(q *early.Question) { q.Args = args("-c", "archive-push", "archive-get", "x") }, "no archive-push"},
		{"a get", func(q *early.Question) { q.Args = get("-c", "/etc/c.yml", "archive-get") }, ""},
		{"a get on a timeline", func(q *early.Question) {
			q.Args = get("archive-get", "-c", "/etc/c.yml", "--streamed", "--timeline", "3")
		}, ""},
		{"a get on a timeline that is none", func(q *early.Question) { q.Args = get("-c", "/etc/c.yml", "archive-get", "--timeline=x") }, "timeline"},
		{"a get with another configuration", func(q *early.Question) {
			q.Args = get("-c", "/etc/c.yml", "--cluster=other", "archive-get")
		}, "another configuration"},
		{"a get that wants nothing fetched ahead", func(q *early.Question) {
			q.Args, q.Environ = get("-c", "/etc/c.yml", "archive-get"), []string{"PGTENDER_ARCHIVE_PREFETCH=0"}
		}, "another configuration"},
		{"a get of three", func(q *early.Question) { q.Args = get("-c", "/etc/c.yml", "archive-get", "x") }, "accepts 2 arg"},
		{"another command with that word, and a get's operands", func(q *early.Question) { q.Args = get("-c", "archive-get", "archive-push") }, "accepts 1 arg"},
		{"one path too many", func(q *early.Question) { q.Args = args("-c", "/etc/c.yml", "archive-push", "x") }, "accepts 1 arg"},
		{"a path that is a flag's value", func(q *early.Question) { q.Args = args("archive-push", "--config") }, "accepts 1 arg"},
	} {
		q := base
		q.Args = append([]string(nil), base.Args...)
		c.change(&q)
		for range 2 { // the second time from memory
			e, ok := early.ErrandOf(q.Args)
			err := s.judge(e, q).err
			if !ok {
				t.Errorf("%s: it does not even ask", c.name)
			}
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}

// TestTheAgentWritesTheCommandsLog as the command was told to.
func TestTheAgentWritesTheCommandsLog(t *testing.T) {
	const content = "repository: file:///r\ncluster: demo\nagent: {socket: /s}\n"
	dir := t.TempDir()
	walDir := mustMkdir(t, dir, "pg_wal")
	s := &standIn{
		socket: "/s", fingerprint: fingerprintOf(t, content), walDir: walDir,
		push:     func(_, _ context.Context, _ string) (archive.Outcome, error) { return archive.Stored, nil },
		handOver: func(context.Context, string, string) (string, error) { return "spooled", nil },
	}
	push, get := []string{"archive-push", earlySegment}, []string{"archive-get", earlySegment, earlyDest}
	for _, c := range []struct {
		flag, want string
		errand     []string
	}{
		{"--log-level=warn", "", push},
		{"--log-level=info", `level=INFO msg="archived by the agent" file=` + earlySegment + " outcome=stored\n", push},
		{"--log-format=json", `"level":"INFO","msg":"archived by the agent","file":"` + earlySegment + `","outcome":"stored"}` + "\n", push},
		{"--log-level=info", "", get},
		{"--log-level=debug", `level=DEBUG msg="fetched ahead" file=` + earlySegment + "\n", get},
	} {
		q := early.Question{Dir: dir, Config: "/c", Content: content, Args: append([]string{"-c", "/c", c.flag}, c.errand...)}
		a, err := s.answer(t.Context(), t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(a.Log, c.want) || (a.Log == "") != (c.want == "") {
			t.Errorf("%s: %q", c.flag, a.Log)
		}
	}
}

// TestAReaderIsHandedItsOwn: who follows another timeline, or has another pg_wal, is
// another reader.
func TestAReaderIsHandedItsOwn(t *testing.T) {
	const content = "repository: file:///r\ncluster: demo\nagent: {socket: /s}\n"
	dir, fingerprint := t.TempDir(), fingerprintOf(t, content)
	var reader string
	s := &standIn{
		socket: "/s", fingerprint: fingerprint, walDir: mustMkdir(t, dir, "pg_wal"),
		handOver: func(_ context.Context, r, name string) (string, error) { reader = r; return "x/" + name, nil },
	}
	mustMkdir(t, mustMkdir(t, dir, "copy"), "pg_wal")
	for _, c := range []struct {
		flags, dir, want string
	}{
		{"--streamed", dir, readerOf(fingerprint, 0)},
		{"--timeline=3", dir, readerOf(fingerprint, 3)},
		{"--timeline=3", filepath.Join(dir, "copy"), ""},
		{"--timeline=3", filepath.Join(dir, "nowhere"), ""},
	} {
		reader = ""
		a, err := s.answer(t.Context(), t.Context(), early.Question{
			Dir: c.dir, Config: "/c", Content: content, Args: []string{"-c", "/c", "archive-get", c.flags, earlySegment, earlyDest},
		})
		if reader != c.want || (err == nil) != (c.want != "") || err == nil && a.What != "x/"+earlySegment {
			t.Errorf("%s in %s: handed to %q as %q, %v", c.flags, c.dir, reader, a.What, err)
		}
	}
}

func fingerprintOfFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fingerprintOf(t, string(content))
}

func fingerprintOf(t *testing.T, content string) string {
	t.Helper()
	a := &app{configPath: "/c", readFile: func(string) ([]byte, error) { return []byte(content), nil }}
	c, err := a.config()
	if err != nil {
		t.Fatal(err)
	}
	return (&node{Config: c}).fingerprint()
}

// earlyMember is a data directory whose agent answers early, and a copy of it that has
// the agent's hint too. Without the agent nothing is archived or fetched: there is no
// such repository.
type earlyMember struct{ dir, copied, config string }

func (m earlyMember) walDir() string { return filepath.Join(m.dir, "pg_wal") }

func startEarlyMember(t *testing.T, with func(m earlyMember, s *standIn, a *agent.Agent)) earlyMember {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("nobody is asked early here")
	}
	dir, err := os.MkdirTemp("", "erl") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := earlyMember{dir, mustMkdir(t, dir, "copy"), filepath.Join(dir, "c.yml")}
	socket := filepath.Join(dir, "s")
	content := "repository: file:///nowhere/at/all\ncluster: demo/7700000000000000001\nagent: {socket: " + socket + "}\n"
	if err := os.WriteFile(m.config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{m.dir, m.copied} {
		walDir := mustMkdir(t, d, "pg_wal")
		if _, err := agent.LeaveHint(walDir, early.Hint{Socket: socket, Config: m.config}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(walDir, earlySegment), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fingerprint := fingerprintOf(t, content)
	s := &standIn{socket: socket, fingerprint: fingerprint, walDir: m.walDir()}
	a := &agent.Agent{Fingerprint: fingerprint, Early: s.answer, Pusher: &agent.Pusher{WALDir: m.walDir(), Timeout: time.Hour}}
	with(m, s, a)
	l, release, err := agent.Listen(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		release()
	})
	return m
}

// run runs the command, and tells whether it was initialised.
func (m earlyMember) run(t *testing.T, dir string, env []string, args ...string) (said string, initialised bool, code int) {
	t.Helper()
	cmd := command(t, append([]string{"-c", m.config}, args...)...)
	cmd.Dir, cmd.Env = dir, append(cmd.Env, append(env, "GODEBUG=inittrace=1")...)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), strings.Contains(out.String(), "init encoding/json "), cmd.ProcessState.ExitCode()
}

// TestAnArchivePushEndsBeforeItBegins where the agent answers, and is an ordinary
// one where the agent does not.
func TestAnArchivePushEndsBeforeItBegins(t *testing.T) {
	var archived atomic.Int32
	m := startEarlyMember(t, func(_ earlyMember, s *standIn, a *agent.Agent) {
		a.Pusher.Archive = func(context.Context, string, agent.How) (archive.PushResult, error) {
			archived.Add(1)
			return archive.PushResult{Outcome: archive.Stored}, nil
		}
		s.push = a.Pusher.Push
	})
	for _, c := range []struct {
		name, dir   string
		env         []string
		early, full bool // the answer comes early; there is one at all
	}{
		{"the agent's own", m.dir, nil, true, true},
		{"with another configuration", m.dir, []string{"PGTENDER_ARCHIVE_WORKERS=7"}, false, false},
		{"that wants no agent", m.dir, []string{"PGTENDER_AGENT_SOCKET="}, false, false},
		{"with a log of its own", m.dir, []string{"PGTENDER_LOG_FILE=" + filepath.Join(m.dir, "log")}, false, true},
		{"of a copied data directory", m.copied, nil, false, false},
	} {
		before := archived.Load()
		said, initialised, code := m.run(t, c.dir, c.env, "archive-push", "pg_wal/"+earlySegment)
		if (code == 0) != c.full || initialised == c.early || (archived.Load() > before) != c.full {
			t.Errorf("%s: exit %d, initialised %v, %d archived: %s", c.name, code, initialised, archived.Load()-before, lastLines(said))
		}
		if c.early && !strings.Contains(said, "archived by the agent") {
			t.Errorf("%s: nothing is logged", c.name)
		}
	}
}

// TestAnArchiveGetEndsBeforeItBegins where the agent has the segment at hand. Where it
// has not, an ordinary one runs and alone decides on the exit status: here, where no
// repository answers, that is never one that ends recovery.
func TestAnArchiveGetEndsBeforeItBegins(t *testing.T) {
	const spooled = ".pgtender-spool/" + earlySegment + "~00"
	var readers sync.Map
	m := startEarlyMember(t, func(m earlyMember, s *standIn, _ *agent.Agent) {
		s.handOver = func(_ context.Context, reader, name string) (string, error) {
			readers.Store(reader, true)
			if name != earlySegment {
				return "", errNotAhead
			}
			path := filepath.Join(m.walDir(), spooled)
			err := os.MkdirAll(filepath.Dir(path), 0o700)
			return spooled, errors.Join(err, os.WriteFile(path, []byte("handed over"), 0o600))
		}
	})
	const other = "000000010000000000000004"
	for _, c := range []struct {
		name, dir string
		env       []string
		args      []string
		early     bool
	}{
		{"the agent's own", m.dir, nil, []string{earlySegment, earlyDest}, true},
		{"by an absolute path", "/", nil, []string{earlySegment, filepath.Join(m.dir, earlyDest)}, true},
		{"on a timeline", m.dir, nil, []string{"--timeline", "1", "--streamed", earlySegment, earlyDest}, true},
		{"of what is not at hand", m.dir, nil, []string{other, earlyDest}, false},
		{"with another configuration", m.dir, []string{"PGTENDER_ARCHIVE_WORKERS=7"}, []string{earlySegment, earlyDest}, false},
		{"that wants nothing ahead", m.dir, []string{"PGTENDER_ARCHIVE_PREFETCH=0"}, []string{earlySegment, earlyDest}, false},
		{"that wants no agent", m.dir, []string{"PGTENDER_AGENT_SOCKET="}, []string{earlySegment, earlyDest}, false},
		{"of a copied data directory", m.copied, nil, []string{earlySegment, earlyDest}, false},
		{"by another caller", m.dir, nil, []string{earlySegment, "pg_wal/" + earlySegment}, false},
		{"of a history", m.dir, nil, []string{"00000002.history", "pg_wal/RECOVERYHISTORY"}, false},
		{"that is misused", m.dir, nil, []string{"--nonsense", earlySegment, earlyDest}, false},
	} {
		dest := filepath.Join(m.dir, earlyDest)
		if err := os.RemoveAll(dest); err != nil {
			t.Fatal(err)
		}
		said, initialised, code := m.run(t, c.dir, c.env, append([]string{"archive-get"}, c.args...)...)
		content, err := os.ReadFile(dest)
		if initialised == c.early || (code == 0) != c.early || !c.early && code != exitStop || (string(content) == "handed over") != c.early {
			t.Errorf("%s: exit %d, initialised %v, %q is there, %v: %s", c.name, code, initialised, content, err, lastLines(said))
		}
	}
	for _, tli := range []pg.Timeline{0, 1} {
		if _, ok := readers.LoadAndDelete(readerOf(fingerprintOfFile(t, m.config), tli)); !ok {
			t.Errorf("nothing was asked for by the reader of timeline %s", tli)
		}
	}
	readers.Range(func(reader, _ any) bool { t.Errorf("a reader %s asked", reader); return true })
}

func lastLines(s string) string { return s[max(0, len(s)-500):] }
