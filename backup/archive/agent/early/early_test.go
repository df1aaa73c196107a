package early_test

import (
	"bufio"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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
	l, err := net.Listen("unix", h.Socket)
	if err == nil {
		err = h.Leave(m.walDir)
	}
	if err != nil {
		t.Fatal(err)
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
	done := string(early.Done(segment, "a line\n"))
	for _, c := range []struct {
		name, says, log string
		want            bool
	}{
		{"done", done, "a line\n", true},
		{"done, and nothing to log", string(early.Done(segment, "")), "", true},
		{"done after beats", early.Beat + early.Beat + done, "a line\n", true},
		{"no", string(early.No()), "", false},
		{"no after a beat", early.Beat + string(early.No()), "", false},
		{"another segment", string(early.Done("000000010000000000000008", "")), "", false},
		{"nothing", "", "", false},
		{"gone after a beat", early.Beat, "", false},
		{"gone in the middle of the word", "done " + segment, "", false},
		{"gone in the middle of the log", done[:len(done)-1], "", false},
		{"more than there should be", done + "x", "", false},
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
	m := newMember(t, say(string(early.Done(segment, ""))))
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
	if got := q.Path(); got != filepath.Join(m.walDir, segment) {
		t.Errorf("the segment is at %s", got)
	}
}

// TestNobodyElseIsHeard: whatever is no archive-push of a segment asks nobody, nor
// does one whose member has no agent that said where it is.
func TestNobodyElseIsHeard(t *testing.T) {
	onLinux(t)
	m := newMember(t, say(string(early.Done(segment, ""))))
	path := filepath.Join(m.walDir, segment)
	for _, args := range [][]string{
		{}, {path}, {"archive-push"}, {"archive-get", path}, {"agent", "status"},
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

func TestAHintIsWithdrawnByItsOwnAgentAlone(t *testing.T) {
	dir := t.TempDir()
	old, current := early.Hint{Socket: "/old", Config: "/c"}, early.Hint{Socket: "/new", Config: "/c"}
	for _, h := range []early.Hint{old, current} {
		if err := h.Leave(dir); err != nil {
			t.Fatal(err)
		}
	}
	count := func() int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if err := old.Withdraw(dir); err != nil || count() != 1 {
		t.Errorf("%v, %d files where the other agent's hint should be", err, count())
	}
	if err := current.Withdraw(dir); err != nil || count() != 0 {
		t.Errorf("%v, %d files left", err, count())
	}
	if err := current.Withdraw(dir); err != nil {
		t.Error(err)
	}
	if err := (early.Hint{Socket: "/a\nb", Config: "/c"}).Leave(dir); err == nil {
		t.Error("a path with a line break was left")
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
	f.Add([]byte("d\x00c\x00f\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := early.Decode(b)
		if err != nil {
			return
		}
		if again, ok := q.Encode(); !ok || string(again) != string(b) {
			t.Errorf("%q becomes %q", b, again)
		}
		if early.Asks(q.Args) {
			_, _ = q.Segment(), q.Path()
		}
	})
}
