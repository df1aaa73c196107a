//go:build linux && cgo

package early_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup/archive/agent/early"
)

// maxAnswer is how long an answer may be, beats not counted.
const maxAnswer = 64 << 10

// heard gives an answer without its beats, and what it says that the agent did.
func heard(says string) (said, what string) {
	said = says
	for strings.HasPrefix(said, early.Beat) {
		said = said[len(early.Beat):]
	}
	what, _, _ = strings.Cut(strings.TrimPrefix(said, "done "), " ")
	return said, what
}

// begins reports whether said begins with such an answer. What follows a whole answer is
// found out only if it has come by then.
func begins(said, what, log string) bool {
	return len(done(what, log)) <= maxAnswer && strings.HasPrefix(said, done(what, log))
}

// is reports whether such an answer is all that was said, and no longer than may be; beats
// have as much room again.
func is(says, said, what string) bool {
	_, log, _ := strings.Cut(said, "\n")
	return len(said) <= maxAnswer && len(says) <= 2*maxAnswer && said == done(what, log)
}

func addAnswers(f *testing.F, what string) {
	whole := done(what, "a line\n")
	for i := range len(whole) + 1 {
		f.Add(whole[:i], uint16(i/3))
	}
	for _, says := range []string{early.Beat + early.Beat + whole, early.Beat + string(early.No()), whole + "x", done("", ""), done(what, strings.Repeat("x", 65000)), done(what, strings.Repeat("x", maxAnswer)),
		"done " + what + " 00\n", "done " + what + " -1\n", "done " + what + " 18446744073709551616\n", "done  0\n", strings.Repeat(early.Beat, 30000), strings.Repeat(early.Beat, 25000) + whole, strings.Repeat("x", 1<<18)} {
		f.Add(says, uint16(4000))
	}
}

// inPieces says something piece by piece, as the other end may well get it.
func inPieces(says string, piece uint16) func(net.Conn) {
	return func(c net.Conn) {
		for b := range slices.Chunk([]byte(says), max(1, int(piece))) {
			if _, err := c.Write(b); err != nil {
				return // the command has judged
			}
		}
	}
}

// FuzzAnswerToAPush: whatever the agent says, the command that is C believes what Go
// would, and comes to its end.
func FuzzAnswerToAPush(f *testing.F) {
	addAnswers(f, segment)
	f.Fuzz(func(t *testing.T, says string, piece uint16) {
		m := newMember(t, inPieces(says, piece))
		log, answered := ask(t, m.args())
		said, _ := heard(says)
		switch {
		case answered && !begins(said, segment, log):
			t.Errorf("%.100q was believed, and %.100q logged", says, log)
		case !answered && (is(says, said, segment) || log != ""):
			t.Errorf("%.100q was not believed, and %.100q logged", says, log)
		}
	})
}

// FuzzAnswerToAGet: recovery has the file that was fetched for it, or what it had before.
func FuzzAnswerToAGet(f *testing.F) {
	addAnswers(f, spooled)
	for _, what := range []string{"./" + spooled, "spool/../" + spooled, "/" + spooled, "../pg_wal/" + spooled, "RECOVERYXLOG", "spool", "spool/", spooled + "\x00", spooled + "/", segment + "~"} {
		f.Add(done(what, ""), uint16(1))
	}
	f.Fuzz(func(t *testing.T, says string, piece uint16) {
		m := newMember(t, inPieces(says, piece))
		from := m.spool(t, spooled, "new")
		m.spool(t, "RECOVERYXLOG", "old")
		log, answered := ask(t, m.getArgs())
		said, what := heard(says)
		have, left := content(t, m.dest()), content(t, from)
		switch {
		case answered && (!begins(said, what, log) || have != "new" || left != "-"):
			t.Errorf("%.100q was believed: %q is there, %q in the spool, %.100q logged", says, have, left, log)
		case !answered && (is(says, said, spooled) || have != "old" || left != "new" || log != ""):
			t.Errorf("%.100q was not believed: %q is there, %q in the spool, %.100q logged", says, have, left, log)
		}
	})
}

// FuzzHint: nobody is asked by what is no hint.
func FuzzHint(f *testing.F) {
	whole, _ := early.Hint{Socket: "SOCKET", Config: "CONFIG"}.Encode()
	for i := range len(whole) + 1 {
		f.Add(string(whole[:i]))
	}
	for _, hint := range []string{string(whole) + "\n", string(whole) + "x", "pgtender-agent 1\n\nCONFIG\n", "pgtender-agent 1\nSOCKET\n\n", "pgtender-agent 2\nSOCKET\nCONFIG\n", "pgtender-agent 1\n@x\nCONFIG\n",
		"pgtender-agent 1\nSOCKET\n/\n", "pgtender-agent 1\nSOCKET\n/dev/zero\n", "pgtender-agent 1\n" + strings.Repeat("/", 200) + "\nCONFIG\n", "pgtender-agent 1\nSOCKET\n" + strings.Repeat("/", 17<<10) + "CONFIG\n", "pgtender-agent 1\nSOCKET\x00\nCONFIG\n"} {
		f.Add(hint)
	}
	f.Fuzz(func(t *testing.T, hint string) {
		m := newMember(t, say(done(segment, "")))
		hint = strings.NewReplacer("SOCKET", filepath.Join(filepath.Dir(m.walDir), "s"), "CONFIG", m.config).Replace(hint)
		file := filepath.Join(m.walDir, early.HintFile)
		right := content(t, file)
		if err := os.WriteFile(file, []byte(hint), 0o600); err != nil {
			t.Fatal(err)
		}
		_, answered := ask(t, m.args())
		lines := strings.Split(hint, "\n")
		isHint := len(lines) == 4 && lines[0] == "pgtender-agent 1" && lines[1] != "" && lines[2] != "" && lines[3] == "" && !strings.Contains(hint, "\x00")
		if answered && !isHint || !answered && hint == right {
			t.Errorf("by the hint %.200q it was answered: %v", hint, answered)
		}
	})
}
