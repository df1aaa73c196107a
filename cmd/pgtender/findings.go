package main

import (
	"fmt"
	"io"

	"github.com/pgtender/pgtender/internal/finding"
)

// printFindings prints one line a finding, and its hint below it.
func printFindings(w io.Writer, findings []finding.Finding) {
	for _, f := range findings {
		fmt.Fprintf(w, "%-8s %s\n", f.Severity, f.Text)
		if f.Hint != "" {
			fmt.Fprintf(w, "%-8s hint: %s\n", "", f.Hint)
		}
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
