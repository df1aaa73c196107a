package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/agent"
	"github.com/pgtender/pgtender/backup/archive/agent/early"
)

const earlySegment = "000000010000000000000003"

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
		{"one path too many", func(q *early.Question) { q.Args = args("-c", "/etc/c.yml", "archive-push", "x") }, "accepts 1 arg"},
		{"a path that is a flag's value", func(q *early.Question) { q.Args = args("archive-push", "--config") }, "accepts 1 arg"},
	} {
		q := base
		q.Args = append([]string(nil), base.Args...)
		c.change(&q)
		for range 2 { // the second time from memory
			_, err := s.judge(q)
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}

// TestTheAgentWritesTheCommandsLog as the command was told to.
func TestTheAgentWritesTheCommandsLog(t *testing.T) {
	const content = "repository: file:///r\ncluster: demo\nagent: {socket: /s}\n"
	s := &standIn{socket: "/s", fingerprint: fingerprintOf(t, content)}
	for _, c := range []struct{ flag, want string }{
		{"--log-level=warn", ""},
		{"--log-level=info", `level=INFO msg="archived by the agent" file=` + earlySegment + " outcome=stored\n"},
		{"--log-format=json", `"level":"INFO","msg":"archived by the agent","file":"` + earlySegment + `","outcome":"stored"}` + "\n"},
	} {
		log, err := s.judge(early.Question{Config: "/c", Content: content, Args: []string{"-c", "/c", c.flag, "archive-push", earlySegment}})
		if err != nil {
			t.Fatal(err)
		}
		if got := log(archive.Stored); !strings.HasSuffix(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %q", c.flag, got)
		}
	}
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

// TestAnArchivePushEndsBeforeItBegins where the agent answers, and is an ordinary
// one where the agent does not.
func TestAnArchivePushEndsBeforeItBegins(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("nobody is asked early here")
	}
	dir, err := os.MkdirTemp("", "psh") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	walDir, socket := mustMkdir(t, dir, "pg_wal"), filepath.Join(dir, "s")
	copied := mustMkdir(t, dir, "pg_wal_of_a_copy")
	config := filepath.Join(dir, "c.yml")
	// Without the agent nothing is archived: there is no such place.
	content := "repository: file:///nowhere/at/all\ncluster: demo/7700000000000000001\nagent: {socket: " + socket + "}\n"
	for name, text := range map[string]string{config: content, filepath.Join(walDir, earlySegment): "x", filepath.Join(copied, earlySegment): "x"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var archived atomic.Int32
	fingerprint := fingerprintOf(t, content)
	a := &agent.Agent{
		Fingerprint: fingerprint, Early: (&standIn{socket: socket, fingerprint: fingerprint}).judge,
		Pusher: &agent.Pusher{WALDir: walDir, Archive: func(context.Context, string, agent.How) (archive.PushResult, error) {
			archived.Add(1)
			return archive.PushResult{Outcome: archive.Stored}, nil
		}, Timeout: 1 << 40},
	}
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
	for _, d := range []string{walDir, copied} { // a copied data directory has the hint too
		if err := (early.Hint{Socket: socket, Config: config}).Leave(d); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, dir   string
		env         []string
		early, full bool // the answer comes early; there is one at all
	}{
		{"the agent's own", walDir, nil, true, true},
		{"with another configuration", walDir, []string{"PGTENDER_ARCHIVE_WORKERS=7"}, false, false},
		{"that wants no agent", walDir, []string{"PGTENDER_AGENT_SOCKET="}, false, false},
		{"with a log of its own", walDir, []string{"PGTENDER_LOG_FILE=" + filepath.Join(dir, "log")}, false, true},
		{"of a copied data directory", copied, nil, false, false},
	} {
		cmd := command(t, "-c", config, "archive-push", filepath.Join(c.dir, earlySegment))
		cmd.Env = append(cmd.Env, append(c.env, "GODEBUG=inittrace=1")...)
		var said bytes.Buffer
		cmd.Stderr = &said
		before := archived.Load()
		err := cmd.Run()
		initialised := strings.Contains(said.String(), "init encoding/json ")
		if (err == nil) != c.full || initialised == c.early || (archived.Load() > before) != c.full {
			t.Errorf("%s: %v, initialised %v, %d archived: %s", c.name, err, initialised, archived.Load()-before, lastLines(said.String()))
		}
		if c.early && !strings.Contains(said.String(), "archived by the agent") {
			t.Errorf("%s: nothing is logged", c.name)
		}
	}
}

func lastLines(s string) string { return s[max(0, len(s)-500):] }
