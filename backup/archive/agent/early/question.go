// Package early is the question of archive-push and archive-get to the agent before
// the rest of the program is there to ask it: the agent's side of it. The command's is
// in C, see cmd/pgtender/early.
//
// Most of what such a command costs that the agent answers is the start of its own
// process: the initialisation of all that other commands need, the configuration's
// YAML, the command line. So the command asks first and initialises then. It decides
// nothing: it sends what it is made of, the arguments, the environment as far as it
// configures, and the configuration file's bytes, and the agent judges by the
// program's own rules whether such a command would have come to it, and asks it in
// vain for anything else. Any answer but "done", and any doubt, means that the
// command goes on as if nothing had been.
//
//	pg_wal/.pgtender-agent      where the agent listens, and the configuration file
//	                            it was started with ([Hint]); where there is none,
//	                            archive-get asks what fetches ahead, see [SpoolHint]
//	"pgtender early 1 N\n"      the question, N bytes of records ([Question.Encode])
//	"beat\n"                    each second, while the agent works
//	"done WHAT N\n"             the answer, and N bytes for the standard error
//	"no\n"                      likewise
//
// WHAT is the segment that is archived; or, for an archive-get, the file that holds
// it, fetched ahead and verified, by its path from DEST's folder. The command renames
// that to DEST itself. So nobody puts anything there behind its back: an agent that
// hangs and goes on later would, when the server has gone on to another segment. A
// command that is killed before the rename has done nothing, and an agent that is
// killed after its answer has nothing left to do.
package early

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Question is a command.
type Question struct {
	Dir     string   // the working directory, absolute
	Config  string   // the configuration file's path, absolute: the hint's
	Content string   // that the file has
	Args    []string // of the command
	Environ []string // the variables that can configure the program
}

// MaxQuestion bounds an encoded question.
const MaxQuestion = 256 << 10

const header = "pgtender early 1 "

var errQuestion = errors.New("not a question of a command")

// Encode gives the records: each is a letter, the text, and a zero byte. What the
// system hands to a process has none; false: the configuration file does, or there
// is too much of it all.
func (q *Question) Encode() ([]byte, bool) {
	if strings.Contains(q.Content, "\x00") {
		return nil, false
	}
	var b []byte
	put := func(kind byte, text string) { b = append(append(append(b, kind), text...), 0) }
	put('d', q.Dir)
	put('c', q.Config)
	put('f', q.Content)
	for _, a := range q.Args {
		put('a', a)
	}
	for _, e := range q.Environ {
		put('e', e)
	}
	return b, len(b) <= MaxQuestion
}

// Decode is the inverse of Encode.
func Decode(b []byte) (Question, error) {
	var q Question
	if len(b) > MaxQuestion || len(b) == 0 || b[len(b)-1] != 0 {
		return q, errQuestion
	}
	records := strings.Split(string(b[:len(b)-1]), "\x00")
	if len(records) < 3 {
		return q, errQuestion
	}
	for i, to := range []*string{&q.Dir, &q.Config, &q.Content} {
		text, ok := strings.CutPrefix(records[i], "dcf"[i:i+1])
		if !ok {
			return Question{}, errQuestion
		}
		*to = text
	}
	for _, r := range records[3:] {
		switch {
		case strings.HasPrefix(r, "a") && q.Environ == nil:
			q.Args = append(q.Args, r[1:])
		case strings.HasPrefix(r, "e"):
			q.Environ = append(q.Environ, r[1:])
		default:
			return Question{}, errQuestion
		}
	}
	return q, nil
}

// Header reports whether a line begins a question, and of how many bytes.
func Header(line []byte) (n int, ok bool) {
	first, _, _ := strings.Cut(string(line), "\n")
	text, ok := strings.CutPrefix(first, header)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil && n > 0 && n <= MaxQuestion
}

// Errand is what a command is there for.
type Errand struct {
	// Get: an archive-get of a recovering server, else an archive-push; of a whole
	// segment.
	Get     bool
	Segment string // its name
	// Path is where the segment lies, or is to be put, as the command has it.
	Path string
}

// recovered is what recovery has a segment put under (RestoreArchivedFile,
// xlogarchive.c).
const recovered = "RECOVERYXLOG"

// ErrandOf finds it in a command line, as far as that can be told without a parser
// of command lines, which the agent has: the operands come last.
func ErrandOf(args []string) (Errand, bool) {
	last := len(args) - 1
	if last < 1 || strings.HasPrefix(args[last], "-") {
		return Errand{}, false
	}
	e := Errand{Path: args[last]}
	e.Segment = e.Path[strings.LastIndexByte(e.Path, '/')+1:]
	if isSegment(e.Segment) {
		return e, slices.Contains(args[:last], "archive-push")
	}
	e.Get, e.Segment = e.Segment == recovered, args[last-1]
	return e, e.Get && isSegment(e.Segment) && slices.Contains(args[:last-1], "archive-get")
}

// Operands gives those of the command.
func (e Errand) Operands() []string {
	if e.Get {
		return []string{e.Segment, e.Path}
	}
	return []string{e.Path}
}

// Path gives the errand's path, absolute.
func (q *Question) Path(e Errand) string {
	if strings.HasPrefix(e.Path, "/") {
		return e.Path
	}
	return q.Dir + "/" + e.Path
}

// isSegment reports whether a name is a segment's (XLogFileName, xlog_internal.h).
func isSegment(name string) bool {
	if len(name) != 24 {
		return false
	}
	for _, c := range []byte(name) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
