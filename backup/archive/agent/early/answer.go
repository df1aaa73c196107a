package early

import (
	"errors"
	"strconv"
)

// Beat is what the agent sends while it works.
const Beat = "beat\n"

// maxAnswer bounds an answer.
const maxAnswer = 64 << 10

// Done gives the answer that a segment is archived; log is for the command's
// standard error.
func Done(segment, log string) []byte {
	return []byte("done " + segment + " " + strconv.Itoa(len(log)) + "\n" + log)
}

// No gives the answer to everything else: the command does it by itself.
func No() []byte { return []byte("no\n") }

var (
	errNo     = errors.New("the agent did not archive it")
	errAnswer = errors.New("not an agent's answer")
)

// parseAnswer looks at what has come so far. It gives the log once the answer is
// complete and says that the segment is archived; an error means that it will not
// say so any more. rest is what is still of interest of b.
func parseAnswer(b []byte, segment string) (log string, done bool, rest []byte, err error) {
	text := string(b)
	for hasPrefix(text, Beat) {
		text = text[len(Beat):]
	}
	line, log, whole := cut(text, '\n')
	switch {
	case len(text) > maxAnswer:
		return "", false, nil, errAnswer
	case !whole:
		return "", false, []byte(text), nil
	case line == "no":
		return "", false, nil, errNo
	}
	length, ok := cutPrefix(line, "done "+segment+" ")
	n, numErr := strconv.Atoi(length)
	switch {
	case !ok || numErr != nil || strconv.Itoa(n) != length || n < len(log) || n > maxAnswer:
		return "", false, nil, errAnswer
	case len(log) < n:
		return "", false, []byte(text), nil
	}
	return log, true, nil, nil
}
