package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"
)

// narrator prints the story: numbered steps, plain words, and commands with
// their output.
type narrator struct {
	out   io.Writer
	began time.Time
	step  int
}

// heading begins a step.
func (n *narrator) heading(title string) {
	n.step++
	fmt.Fprintf(n.out, "\n=== %d. %s   [%s]\n\n", n.step, title, clock(time.Since(n.began)))
}

// say prints plain words, as they are broken into lines.
func (n *narrator) say(format string, args ...any) {
	fmt.Fprintf(n.out, format+"\n", args...)
}

// command shows a command line, before it runs.
func (n *narrator) command(args ...string) {
	fmt.Fprintf(n.out, "\n  $ %s\n", quoted(args))
}

// output shows text that a command printed or a file holds.
func (n *narrator) output(text string) {
	w := n.indented()
	io.WriteString(w, strings.TrimRight(text, "\n"))
	w.end()
}

// indented is a writer for the output of a running command.
func (n *narrator) indented() *indenter { return &indenter{out: n.out} }

// indenter writes whole lines, indented. One goroutine at a time.
type indenter struct {
	out  io.Writer
	part []byte // of a line that has not ended
	all  bytes.Buffer
}

func (w *indenter) Write(p []byte) (int, error) {
	w.all.Write(p)
	w.part = append(w.part, p...)
	for {
		line, rest, found := bytes.Cut(w.part, []byte{'\n'})
		if !found {
			return len(p), nil
		}
		fmt.Fprintf(w.out, "  %s\n", line)
		w.part = append([]byte(nil), rest...)
	}
}

// end prints what was left without a line feed.
func (w *indenter) end() {
	if len(w.part) > 0 {
		fmt.Fprintf(w.out, "  %s\n", w.part)
		w.part = nil
	}
}

// quoted is a command line as a shell would take it.
func quoted(args []string) string {
	const special = " \t\n\"'`$&|;<>()*?[]#~\\!"
	words := make([]string, len(args))
	for i, arg := range args {
		switch {
		case arg != "" && !strings.ContainsAny(arg, special):
			words[i] = arg
		case strings.Contains(arg, "'") && !strings.ContainsAny(arg, "\"`$\\!"):
			words[i] = `"` + arg + `"`
		default:
			words[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}

// clock is a time since the start, as m:ss.
func clock(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// seconds is a duration for people.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
