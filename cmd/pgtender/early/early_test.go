//go:build linux && cgo

package early_test

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive/agent/early"
	_ "github.com/pgtender/pgtender/cmd/pgtender/early"
)

const segment = "000000010000000000000007"

// member is a pg_wal, with the hint of an agent that answers as told.
type member struct {
	walDir, config string
	asked          chan early.Question
}

// newMember starts an agent that reads one question for each of the commands, and
// does to the connection what answer does.
func newMember(t testing.TB, answer func(net.Conn)) *member {
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

func (m *member) serve(t testing.TB, conn net.Conn, answer func(net.Conn)) {
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

// This program has the constructor, so that it is the command, too: one that was not
// answered comes as far as TestMain.
const (
	asCommand   = "EARLY_TEST_COMMAND=1"
	notAnswered = 3
)

func TestMain(m *testing.M) {
	if name, value, _ := strings.Cut(asCommand, "="); os.Getenv(name) == value {
		os.Exit(notAnswered)
	}
	os.Exit(m.Run())
}

func command(t testing.TB, args []string, environ ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append([]string{asCommand, "GORACE=atexit_sleep_ms=0"}, environ...)
	return cmd
}

// ask runs a command and gives what it says, and whether it was answered.
func ask(t testing.TB, args []string, environ ...string) (log string, done bool) {
	t.Helper()
	cmd := command(t, args, environ...)
	var said strings.Builder
	cmd.Stderr = &said
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != notAnswered) {
		t.Fatalf("%q: %v: %s", args, err, said.String())
	}
	return said.String(), err == nil
}

func say(s string) func(net.Conn) {
	return func(c net.Conn) { io.WriteString(c, s) }
}

func TestOnlyDoneIsBelieved(t *testing.T) {
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
		{"a longer name", done(segment+"0", ""), "", false},
		{"a shorter name", done(segment[1:], ""), "", false},
		{"no name", done("", ""), "", false},
		{"nothing", "", "", false},
		{"gone after a beat", early.Beat, "", false},
		{"a file that would hold it", done(spooled, ""), "", false},
		{"gone in the middle of the word", "done " + segment, "", false},
		{"gone in the middle of the log", whole[:len(whole)-1], "", false},
		{"more than there should be", whole + "x", "", false},
		{"a length that is none", "done " + segment + " -1\n", "", false},
		{"no length", "done " + segment + " \n", "", false},
		{"no length and no space", "done " + segment + "\n", "", false},
		{"a length in a longer form", "done " + segment + " 00\n", "", false},
		{"the longest log", done(segment, strings.Repeat("x", 65000)), strings.Repeat("x", 65000), true},
		{"too long a log", done(segment, strings.Repeat("x", 64<<10)), "", false},
		{"many beats", strings.Repeat(early.Beat, 1000) + whole, "a line\n", true},
		{"a length beyond reason", "done " + segment + " 99999999999\n", "", false},
		{"an agent of another release", `{"protocol":1,"error":"not the agent's protocol"}` + "\n", "", false},
		{"noise without an end", strings.Repeat("x", 1<<20), "", false},
	} {
		m := newMember(t, say(c.says))
		log, ok := ask(t, m.args())
		if ok != c.want || log != c.log {
			t.Errorf("%s: %v, %q", c.name, ok, log)
		}
	}
}

func TestTheQuestionIsWhatTheCommandIs(t *testing.T) {
	m := newMember(t, say(done(segment, "")))
	t.Chdir(filepath.Dir(m.walDir)) // as PostgreSQL has it
	args := append(m.args()[:3:3], "pg_wal/"+segment)
	if _, ok := ask(t, args, "HOME=/x", "PGTENDER_CLUSTER=a", "AWS_SECRET=s", "PGTENDER_LOG_LEVEL=warn"); !ok {
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
		{"the file of a longer name", done("spool/"+segment+"0~abc", ""), func(t *testing.T, m *member) {
			m.spool(t, "spool/"+segment+"0~abc", "8")
		}, false},
		{"a file without a mark", done("spool/"+segment, ""), func(t *testing.T, m *member) { m.spool(t, "spool/"+segment, "8") }, false},
		{"a file below another", done(spooled+"/x", ""), nil, false},
		{"a file elsewhere", done("../"+segment+"~abc", ""), func(t *testing.T, m *member) { m.spool(t, "../"+segment+"~abc", "8") }, false},
		{"a file elsewhere, by a detour", done("spool/../../"+segment+"~abc", ""), func(t *testing.T, m *member) { m.spool(t, "../"+segment+"~abc", "8") }, false},
		{"a file by its whole path", done("/"+segment+"~abc", ""), nil, false},
		{"a path with a zero byte", done(spooled+"\x00", ""), nil, false},
		{"too long a path", done(strings.Repeat("./", 5000)+spooled, ""), nil, false},
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
			log, ok := ask(t, m.getArgs())
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
			if _, ok := ask(t, m.args()); ok || len(m.asked) > 0 {
				t.Error("a push asked, or was answered")
			}
			if _, ok := ask(t, m.getArgs()); !ok || content(t, m.dest()) != "new" {
				t.Errorf("%v, %q is there", ok, content(t, m.dest()))
			}
		})
	}
}

// TestAPgWalMayBeALink, and recovery's own path is relative to the data directory.
func TestAPgWalMayBeALink(t *testing.T) {
	m := newMember(t, say(done(spooled, "")))
	m.spool(t, spooled, "new")
	dataDir := t.TempDir()
	if err := os.Symlink(m.walDir, filepath.Join(dataDir, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dataDir)
	if _, ok := ask(t, []string{"archive-get", segment, "pg_wal/RECOVERYXLOG"}); !ok || content(t, m.dest()) != "new" {
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
	m := newMember(t, say(done(segment, "")))
	path := filepath.Join(m.walDir, segment)
	for _, args := range [][]string{
		{}, {path}, {"archive-push"}, {"archive-get", path}, {"agent", "status"}, {"archive-get", segment, path}, {"archive-get", m.dest()},
		{segment, m.dest()}, {"archive-push", m.dest()}, {"archive-push", segment, m.dest()}, {"archive-get", "00000002.history", m.dest()},
		{"archive-get", segment, filepath.Join(m.walDir, "RECOVERYHISTORY")}, {"archive-get", segment, m.dest(), "--streamed"}, {segment, "archive-get", m.dest()},
		{"archive-push", path + ".partial"}, {"archive-push", filepath.Join(m.walDir, "00000002.history")},
		{"archive-push", path, "--help"}, {"archive-push", "--config=" + path}, {"archive-push", filepath.Join(filepath.Dir(m.config), segment)},
	} {
		if _, ok := ask(t, args); ok {
			t.Errorf("%q was answered", args)
		}
	}
	real := content(t, filepath.Join(m.walDir, early.HintFile))
	for _, content := range []string{"", real[:len(real)-1], real + "x", real + "\n", "x" + real, strings.Replace(real, "\n/", "\n\x00/", 1),
		strings.Replace(real, m.config, "", 1), strings.Replace(real, m.config, strings.Repeat("/", 16<<10)+m.config, 1), "pgtender-agent 2\n/s\n/c\n", "pgtender-agent 1\n/s\n", "pgtender-agent 1\n/nowhere\n" + m.config + "\n", strings.Repeat("x", 1<<20)} {
		if err := os.WriteFile(filepath.Join(m.walDir, ".pgtender-agent"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := ask(t, m.args()); ok {
			t.Errorf("answered by the hint %.40q", content)
		}
	}
	if len(m.asked) > 0 {
		t.Errorf("the agent was asked %+v", <-m.asked)
	}
}

// TestACommandThatIsToStopDoesNotWait for an agent that is at work, and leaves no core:
// PostgreSQL knows by the status that it was stopped.
func TestACommandThatIsToStopDoesNotWait(t *testing.T) {
	for _, c := range []struct {
		signal syscall.Signal
		want   string
	}{{syscall.SIGQUIT, "exit status 131"}, {syscall.SIGTERM, "signal: terminated"}} {
		end := make(chan struct{})
		m := newMember(t, func(c net.Conn) { io.WriteString(c, early.Beat); <-end })
		cmd := command(t, m.args())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-m.asked
		if err := cmd.Process.Signal(c.signal); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
		close(end)
	}
}

// TestAStrangerIsNotAsked: whoever may write to pg_wal can leave a hint, but the socket
// must be this user's or root's.
func TestAStrangerIsNotAsked(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	m := newMember(t, say(done(segment, "")))
	dir := filepath.Dir(m.walDir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "stranger")
	l := listenAs(t, 65534, socket)
	defer l.Close()
	hint, _ := early.Hint{Socket: socket, Config: m.config}.Encode()
	m.spool(t, early.HintFile, string(hint))
	asked := make(chan []byte, 1)
	go func() {
		var got []byte
		if conn, err := l.Accept(); err == nil {
			io.WriteString(conn, done(segment, ""))
			got, _ = io.ReadAll(conn)
			conn.Close()
		}
		asked <- got
	}()
	if _, ok := ask(t, m.args()); ok {
		t.Error("a stranger was believed")
	}
	if got := <-asked; len(got) > 0 {
		t.Errorf("a stranger was told %q", got)
	}
}

// listenAs listens as another user, who is what the kernel remembers of that.
func listenAs(t *testing.T, uid int, socket string) net.Listener {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	become := func(uid int) {
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); e != 0 { // this thread alone
			t.Fatal(e)
		}
	}
	become(uid)
	l, err := net.Listen("unix", socket)
	become(0)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestAConfigurationThatCannotBeSent asks nobody.
func TestAConfigurationThatCannotBeSent(t *testing.T) {
	m := newMember(t, say(done(segment, "")))
	for _, c := range []struct {
		content string
		want    bool
	}{{"a\x00b", false}, {strings.Repeat("#", 128<<10), true}, {strings.Repeat("#", 128<<10+1), false}, {"", true}} {
		if err := os.WriteFile(m.config, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := ask(t, m.args()); ok != c.want || len(m.asked) > 0 != c.want {
			t.Errorf("%d bytes are sent: %v", len(c.content), ok)
		} else if ok && (<-m.asked).Content != c.content {
			t.Errorf("%d bytes are not what is sent", len(c.content))
		}
	}
	if err := os.WriteFile(m.config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	value := "=" + strings.Repeat("x", 100<<10) // execve(2) takes no longer ones
	if _, ok := ask(t, m.args(), "PGTENDER_X"+value, "PGTENDER_Y"+value); !ok {
		t.Error("200 KiB are not sent")
	}
	if _, ok := ask(t, m.args(), "PGTENDER_X"+value, "PGTENDER_Y"+value, "PGTENDER_Z"+value); ok {
		t.Error("300 KiB are sent")
	}
}

// TestAnAgentThatIsSilentIsLeft after as long as the other way to ask takes.
func TestAnAgentThatIsSilentIsLeft(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	m := newMember(t, func(net.Conn) { <-end })
	defer close(end)
	begun := time.Now()
	if _, ok := ask(t, m.args()); ok {
		t.Error("done, although nobody said so")
	}
	if took := time.Since(begun); took < 2*time.Second || took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}
