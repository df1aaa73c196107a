// Package finding holds what a check found: one line for people, with how bad
// it is and what to do about it. Both towers return findings and cmd prints
// them.
package finding

import (
	"errors"
	"fmt"
	"slices"
)

// Severity says how bad a finding is; more is worse.
type Severity uint8

const (
	OK      Severity = iota // checked, and as it should be
	Info                    // worth knowing, nothing to do
	Warning                 // works now, will hurt one day
	Error                   // something does not work, or would lose data
)

// String gives the word that listings and JSON show.
func (s Severity) String() string {
	switch s {
	case OK:
		return "ok"
	case Info:
		return "info"
	case Warning:
		return "warning"
	case Error:
		return "error"
	}
	return fmt.Sprintf("severity %d", uint8(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is the result of one check.
type Finding struct {
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`           // what is the case, and where
	Hint     string   `json:"hint,omitempty"` // what to do about it
}

func (f Finding) String() string {
	s := f.Severity.String() + ": " + f.Text
	if f.Hint != "" {
		s += " (hint: " + f.Hint + ")"
	}
	return s
}

// Worst gives the highest severity among findings, OK for none.
func Worst(findings []Finding) Severity {
	worst := OK
	for _, f := range findings {
		worst = max(worst, f.Severity)
	}
	return worst
}

// Sort orders findings by severity, the worst first, and keeps the order of
// equals.
func Sort(findings []Finding) {
	slices.SortStableFunc(findings, func(a, b Finding) int { return int(b.Severity) - int(a.Severity) })
}

// WithHint gives err a hint: what whoever meets the error can do about it. The
// error's text does not change; [Hint] finds the hint again. A nil err stays
// nil.
func WithHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err: err, hint: fmt.Sprintf(format, args...)}
}

// Hint gives the hint of the outermost error in err's chain that has one, ""
// if none has.
func Hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

type hinted struct {
	err  error
	hint string
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }
func (e *hinted) Hint() string  { return e.hint }
