package early

import (
	"errors"
	"strconv"
)

// Beat is what the agent sends while it works.
const Beat = "beat\n"

// maxAnswer bounds an answer.
const maxAnswer = 64 << 10

// Answer is what an agent says that has done its part of an errand.
type Answer struct {
	What string // the segment that is archived, or the file that holds the one asked for
	Log  string // for the command's standard error
}

// Encode gives the answer as it is sent.
func (a Answer) Encode() []byte {
	return []byte("done " + a.What + " " + strconv.Itoa(len(a.Log)) + "\n" + a.Log)
}

// No gives the answer to everything else: the command does it by itself.
func No() []byte { return []byte("no\n") }

var (
	errNo     = errors.New("the agent did not do it")
	errAnswer = errors.New("not an agent's answer")
)

// parseAnswer looks at what has come so far. done: it is a whole answer; an error
// means that it will not become one any more. rest is what is still of interest of b.
func parseAnswer(b []byte) (a Answer, done bool, rest []byte, err error) {
	text := string(b)
	for hasPrefix(text, Beat) {
		text = text[len(Beat):]
	}
	line, log, whole := cut(text, '\n')
	switch {
	case len(text) > maxAnswer:
		return Answer{}, false, nil, errAnswer
	case !whole:
		return Answer{}, false, []byte(text), nil
	case line == "no":
		return Answer{}, false, nil, errNo
	}
	rests, ok := cutPrefix(line, "done ")
	what, length, spaced := cut(rests, ' ')
	n, numErr := strconv.Atoi(length)
	switch {
	case !ok || !spaced || what == "" || numErr != nil || strconv.Itoa(n) != length || n < len(log) || n > maxAnswer:
		return Answer{}, false, nil, errAnswer
	case len(log) < n:
		return Answer{}, false, []byte(text), nil
	}
	return Answer{what, log}, true, nil, nil
}

// answers reports whether what an agent did is what was asked for: the segment
// itself is archived, or a file of that segment lies below DEST's folder.
func (a Answer) answers(e Errand) bool {
	if !e.Get {
		return a.What == e.Segment
	}
	folder, name := cutLast(a.What)
	return !hasPrefix(folder, "/") && !hasPrefix(folder, "..") && hasPrefix(name, e.Segment+"~")
}
