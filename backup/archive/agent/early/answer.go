package early

import "strconv"

// Beat is what the agent sends while it works.
const Beat = "beat\n"

// Answer is what an agent says that has done its part of an errand.
type Answer struct {
	What string // the segment that is archived, or the file that holds the one asked for
	Log  string // for the command's standard error, at most 64 KiB with all the rest
}

// Encode gives the answer as it is sent.
func (a Answer) Encode() []byte {
	return []byte("done " + a.What + " " + strconv.Itoa(len(a.Log)) + "\n" + a.Log)
}

// No gives the answer to everything else: the command does it by itself.
func No() []byte { return []byte("no\n") }
