package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/pgtender/pgtender/backup"
)

// marksText renders pin, notes and results of verifications for people.
func marksText(m backup.Marks) []string {
	var out []string
	if m.Pin != nil {
		text := "pinned"
		switch {
		case !m.Pin.Holds(time.Now()):
			text = "was pinned until " + clock(m.Pin.Until)
		case !m.Pin.Until.IsZero():
			text += " until " + clock(m.Pin.Until)
		}
		if m.Pin.Reason != "" {
			text += ": " + printable(m.Pin.Reason)
		}
		out = append(out, text)
	}
	if len(m.Annotations) > 0 {
		out = append(out, notesText(m.Annotations))
	}
	for _, depth := range slices.Sorted(maps.Keys(m.Verified)) {
		v := m.Verified[depth]
		text := "in order"
		if !v.OK {
			text = v.Faults
		}
		out = append(out, fmt.Sprintf("verified (%s) %s: %s", depth, clock(v.Time), text))
	}
	return out
}

// printable puts a space in place of what would end the line, or tell a terminal
// something: a note must not look like a line of ours.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// oneLine refuses a text to be kept that is not one line of plain text.
func oneLine(what, s string) error {
	if s != printable(s) || !utf8.ValidString(s) {
		return usagef("%s %q: want one line of text", what, s)
	}
	return nil
}

// notesText renders notes on one line.
func notesText(notes map[string]string) string {
	if len(notes) == 0 {
		return "no notes"
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(notes)) {
		out = append(out, printable(name)+"="+printable(notes[name]))
	}
	return strings.Join(out, ", ")
}
