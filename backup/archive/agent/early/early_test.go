package early_test

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive/agent/early"
)

const segment = "000000010000000000000007"

// member is a pg_wal, with the hint of an agent that answers as told.
type member struct {
	walDir, config string
	asked          chan early.Question
}

// newMember starts an agent that reads one question for each of the commands, and
// does to the connection what answer does.
func newMember(t *testing.T, answer func(net.Conn)) *member {
	t.Helper()
	dir, err := os.MkdirTemp("", "erl") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &member{walDir: filepath.Join(dir, "pg_wal"), config: filepath.Join(dir, "c.yml"), asked: make(chan early.Question, 8)}
	if err := os.Mkdir(m.walDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.config, []byte("repository: file:///r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := early.Hint{Socket: filepath.Join(dir, "s"), Config: m.config}
	content, ok := h.Encode()
	l, err := net.Listen("unix", h.Socket)
	if err == nil {
		err = os.WriteFile(filepath.Join(m.walDir, early.HintFile), content, 0o600)
	}
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			m.serve(t, conn, answer)
			conn.Close()
		}
	}()
	return m
}

func (m *member) serve(t *testing.T, conn net.Conn, answer func(net.Conn)) {
	in := bufio.NewReader(conn)
	line, err := in.ReadBytes('\n')
	n, ok := early.Header(line)
	if err != nil || !ok {
		t.Errorf("the question begins with %q, %v", line, err)
		return
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(in, body); err != nil {
		t.Error(err)
		return
	}
	q, err := early.Decode(body)
	if err != nil {
		t.Error(err)
	}
	m.asked <- q
	answer(conn)
}

// args are those of an archive-push.
func (m *member) args() []string {
	return []string{"--config", m.config, "archive-push", filepath.Join(m.walDir, segment)}
}

// getArgs are those of an archive-get of a recovering server.
func (m *member) getArgs() []string {
	return []string{"--config", m.config, "archive-get", segment, m.dest()}
}

func (m *member) dest() string { return filepath.Join(m.walDir, "RECOVERYXLOG") }

// spooled is what the agent hands over, seen from the pg_wal.
const spooled = "spool/" + segment + "~abc"

// spool lays down a file.
func (m *member) spool(t *testing.T, what, content string) string {
	t.Helper()
	path := filepath.Join(m.walDir, what)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte(content), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// content gives that of a file, "-" if there is none, "old" for a folder.
func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "-"
	case errors.Is(err, syscall.EISDIR):
		return "old"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func done(what, log string) string { return string(early.Answer{What: what, Log: log}.Encode()) }

func never() bool { return false }

func say(s string) func(net.Conn) {
	return func(c net.Conn) { io.WriteString(c, s) }
}

func onLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("nobody is asked here")
	}
}

func TestOnlyDoneIsBelieved(t *testing.T) {
	onLinux(t)
	whole := done(segment, "a line\n")
	for _, c := range []struct {
		name, says, log string
		want            bool
	}{
		{"done", whole, "a line\n", true},
		{"done, and nothing to log", done(segment, ""), "", true},
		{"done after beats", early.Beat + early.Beat + whole, "a line\n", true},
		{"no", string(early.No()), "", false},
		{"no after a beat", early.Beat + string(early.No()), "", false},
		{"another segment", done("000000010000000000000008", ""), "", false},
		{"nothing", "", "", false},
		{"gone after a beat", early.Beat, "", false},
		{"a file that would hold it", done(spooled, ""), "", false},
		{"gone in the middle of the word", "done " + segment, "", false},
		{"gone in the middle of the log", whole[:len(whole)-1], "", false},
		{"more than there should be", whole + "x", "", false},
		{"a length that is none", "done " + segment + " -1\n", "", false},
		{"a length beyond reason", "done " + segment + " 99999999999\n", "", false},
		{"an agent of another release", `{"protocol":1,"error":"not the agent's protocol"}` + "\n", "", false},
		{"noise without an end", strings.Repeat("x", 1<<20), "", false},
	} {
		m := newMember(t, say(c.says))
		log, ok := early.Ask(m.args(), nil, never)
		if ok != c.want || log != c.log {
			t.Errorf("%s: %v, %q", c.name, ok, log)
		}
	}
}

func TestTheQuestionIsWhatTheCommandIs(t *testing.T) {
	onLinux(t)
	m := newMember(t, say(done(segment, "")))
	t.Chdir(filepath.Dir(m.walDir)) // as PostgreSQL has it
	args := append(m.args()[:3:3], "pg_wal/"+segment)
	if _, ok := early.Ask(args, []string{"HOME=/x", "PGTENDER_CLUSTER=a", "AWS_SECRET=s", "PGTENDER_LOG_LEVEL=warn"}, never); !ok {
		t.Fatal("not asked, or not believed")
	}
	q := <-m.asked
	want := early.Question{
		Dir: filepath.Dir(m.walDir), Config: m.config, Content: "repository: file:///r\n", Args: args,
		Environ: []string{"PGTENDER_CLUSTER=a", "PGTENDER_LOG_LEVEL=warn"},
	}
	if diff := cmp.Diff(want, q); diff != "" {
		t.Error(diff)
	}
	e, ok := early.ErrandOf(q.Args)
	if got := q.Path(e); !ok || e.Get || e.Segment != segment || got != filepath.Join(m.walDir, segment) {
		t.Errorf("the segment is at %s", got)
	}
}

// TestASegmentIsHandedOver: it lies where recovery wants it, and in the spool no more,
// if the agent said that it lies there and it does; else nothing is touched.
func TestASegmentIsHandedOver(t *testing.T) {
	onLinux(t)
	whole := done(spooled, "a line\n")
	for _, c := range []struct {
		name, says string
		make       func(t *testing.T, m *member)
		want       bool
	}{
		{"done", early.Beat + whole, nil, true},
		{"no", string(early.No()), nil, false},
		{"gone", "", nil, false},
		{"gone in the middle", whole[:len(whole)-2], nil, false},
		{"a push's answer", done(segment, ""), nil, false},
		{"another segment's file", done("spool/000000010000000000000008~abc", ""), func(t *testing.T, m *member) {
			m.spool(t, "spool/000000010000000000000008~abc", "8")
		}, false},
		{"a file that is gone", whole, func(t *testing.T, m *member) {
			if err := os.Remove(filepath.Join(m.walDir, spooled)); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"a symbolic link", whole, func(t *testing.T, m *member) {
			if err := errors.Join(os.Rename(filepath.Join(m.walDir, spooled), filepath.Join(m.walDir, "x")), os.Symlink("../x", filepath.Join(m.walDir, spooled))); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"a file of another user's", whole, func(t *testing.T, m *member) {
			if err := os.Chown(filepath.Join(m.walDir, spooled), 65534, -1); err != nil {
				t.Skipf("only root can give a file away: %v", err)
			}
		}, false},
		{"a folder in the way", whole, func(t *testing.T, m *member) {
			if err := errors.Join(os.Remove(m.dest()), os.Mkdir(m.dest(), 0o700)); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMember(t, say(c.says))
			from := m.spool(t, spooled, "new")
			m.spool(t, "RECOVERYXLOG", "old")
			if c.make != nil {
				c.make(t, m)
			}
			log, ok := early.Ask(m.getArgs(), nil, never)
			switch {
			case ok != c.want:
				t.Errorf("done: %v", ok)
			case ok && (content(t, m.dest()) != "new" || content(t, from) != "-" || log != "a line\n"):
				t.Errorf("%q is there, %q in the spool, %q is logged", content(t, m.dest()), content(t, from), log)
			case !ok && content(t, m.dest()) != "old":
				t.Errorf("%q is handed over", content(t, m.dest()))
			}
			if len(m.asked) != 1 {
				t.Errorf("the agent was asked %d times", len(m.asked))
			}
		})
	}
}

// TestWhatFetchesAheadIsAskedToo where there is no agent, or it has nothing to hand over;
// for an archive-push it is nobody.
func TestWhatFetchesAheadIsAskedToo(t *testing.T) {
	onLinux(t)
	for name, agent := range map[string]func(t *testing.T, m *member, hint string){
		"no agent": func(t *testing.T, _ *member, hint string) {
			if err := os.Remove(hint); err != nil {
				t.Fatal(err)
			}
		},
		"a dead one": func(t *testing.T, m *member, hint string) {
			dead, _ := early.Hint{Socket: m.walDir + "/dead", Config: m.config}.Encode()
			if err := os.WriteFile(hint, dead, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"one that has nothing": func(t *testing.T, _ *member, hint string) {
			idle := newMember(t, say(string(early.No())))
			if err := os.Rename(filepath.Join(idle.walDir, early.HintFile), hint); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMember(t, say(done(spooled, "")))
			m.spool(t, spooled, "new")
			hint := filepath.Join(m.walDir, early.HintFile)
			m.spool(t, early.SpoolHint, content(t, hint))
			agent(t, m, hint)
			if _, ok := early.Ask(m.args(), nil, never); ok || len(m.asked) > 0 {
				t.Error("a push asked, or was answered")
			}
			if _, ok := early.Ask(m.getArgs(), nil, never); !ok || content(t, m.dest()) != "new" {
				t.Errorf("%v, %q is there", ok, content(t, m.dest()))
			}
		})
	}
}

// TestAPgWalMayBeALink, and recovery's own path is relative to the data directory.
func TestAPgWalMayBeALink(t *testing.T) {
	onLinux(t)
	m := newMember(t, say(done(spooled, "")))
	m.spool(t, spooled, "new")
	dataDir := t.TempDir()
	if err := os.Symlink(m.walDir, filepath.Join(dataDir, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dataDir)
	if _, ok := early.Ask([]string{"archive-get", segment, "pg_wal/RECOVERYXLOG"}, nil, never); !ok || content(t, m.dest()) != "new" {
		t.Errorf("%v, %q", ok, content(t, m.dest()))
	}
	q := <-m.asked
	if e, ok := early.ErrandOf(q.Args); !ok || q.Path(e) != filepath.Join(dataDir, "pg_wal", "RECOVERYXLOG") {
		t.Errorf("asked for %s, %v", q.Path(e), ok)
	}
}

// TestNobodyElseIsHeard: whatever is no archive-push of a segment asks nobody, nor
// does one whose member has no agent that said where it is.
func TestNobodyElseIsHeard(t *testing.T) {
	onLinux(t)
	m := newMember(t, say(done(segment, "")))
	path := filepath.Join(m.walDir, segment)
	for _, args := range [][]string{
		{}, {path}, {"archive-push"}, {"archive-get", path}, {"agent", "status"}, {"archive-get", segment, path}, {"archive-get", m.dest()},
		{segment, m.dest()}, {"archive-push", m.dest()}, {"archive-push", segment, m.dest()}, {"archive-get", "00000002.history", m.dest()},
		{"archive-get", segment, filepath.Join(m.walDir, "RECOVERYHISTORY")}, {"archive-get", segment, m.dest(), "--streamed"}, {segment, "archive-get", m.dest()},
		{"archive-push", path + ".partial"}, {"archive-push", filepath.Join(m.walDir, "00000002.history")},
		{"archive-push", path, "--help"}, {"archive-push", "--config=" + path}, {"archive-push", filepath.Join(filepath.Dir(m.config), segment)},
	} {
		if _, ok := early.Ask(args, nil, never); ok {
			t.Errorf("%q was answered", args)
		}
	}
	for _, content := range []string{"", "pgtender-agent 2\n/s\n/c\n", "pgtender-agent 1\n/s\n", "pgtender-agent 1\n/nowhere\n" + m.config + "\n", strings.Repeat("x", 1<<20)} {
		if err := os.WriteFile(filepath.Join(m.walDir, ".pgtender-agent"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := early.Ask(m.args(), nil, never); ok {
			t.Errorf("answered by the hint %.40q", content)
		}
	}
	if len(m.asked) > 0 {
		t.Errorf("the agent was asked %+v", <-m.asked)
	}
}

// TestACommandThatIsToStopDoesNotWait for an agent that is at work.
func TestACommandThatIsToStopDoesNotWait(t *testing.T) {
	onLinux(t)
	end := make(chan struct{})
	m := newMember(t, func(c net.Conn) { io.WriteString(c, early.Beat); <-end })
	defer close(end)
	begun := time.Now()
	if _, ok := early.Ask(m.args(), nil, func() bool { return len(m.asked) > 0 }); ok {
		t.Error("done, although nobody said so")
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestAnAgentThatIsSilentIsLeft after as long as the other way to ask takes.
func TestAnAgentThatIsSilentIsLeft(t *testing.T) {
	t.Parallel()
	onLinux(t)
	end := make(chan struct{})
	m := newMember(t, func(net.Conn) { <-end })
	defer close(end)
	begun := time.Now()
	if _, ok := early.Ask(m.args(), nil, never); ok {
		t.Error("done, although nobody said so")
	}
	if took := time.Since(begun); took < 2*time.Second || took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestAQuestionThatCannotBeSentIsNone(t *testing.T) {
	for _, q := range []early.Question{{Content: "a\x00b"}, {Content: strings.Repeat("x", early.MaxQuestion)}} {
		if b, ok := q.Encode(); ok {
			t.Errorf("%d bytes would be sent", len(b))
		}
	}
}

func FuzzDecode(f *testing.F) {
	q := early.Question{Dir: "/d", Config: "/c", Content: "x: 1\n", Args: []string{"archive-push", segment}, Environ: []string{"PGTENDER_X=1"}}
	b, _ := q.Encode()
	f.Add(b)
	q.Args = []string{"archive-get", "--streamed", segment, "pg_wal/RECOVERYXLOG"}
	b, _ = q.Encode()
	f.Add(b)
	f.Add([]byte("d\x00c\x00f\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := early.Decode(b)
		if err != nil {
			return
		}
		if again, ok := q.Encode(); !ok || string(again) != string(b) {
			t.Errorf("%q becomes %q", b, again)
		}
		if e, ok := early.ErrandOf(q.Args); ok {
			if operands := e.Operands(); !slices.Equal(operands, q.Args[len(q.Args)-len(operands):]) || !strings.HasSuffix(q.Path(e), e.Path) {
				t.Errorf("%q is %+v", q.Args, e)
			}
		}
	})
}
