// Command fuzz runs every fuzz target of the module for a while, one after the
// other: go run ./e2e/fuzz [duration], ten seconds each by default.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	each := 10 * time.Second
	if len(args) > 0 {
		d, err := time.ParseDuration(args[0])
		if err != nil {
			return err
		}
		each = d
	}
	targets, err := targets()
	if err != nil {
		return err
	}
	for _, t := range targets {
		fmt.Printf("%s %s\n", t.pkg, t.name)
		// Go's default minimisation of a large input may take longer than the
		// whole run.
		cmd := exec.Command("go", "test", "-short", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", each.String(), "-fuzzminimizetime", "10x", t.pkg)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s %s: %w", t.pkg, t.name, err)
		}
	}
	return nil
}

type target struct{ pkg, name string }

var definition = regexp.MustCompile(`(?m)^func (Fuzz\w*)\(`)

// targets finds the fuzz functions in the sources: asking the test binaries
// would build all of them first.
func targets() ([]target, error) {
	list, err := exec.Command("go", "list", "-f", `{{.ImportPath}}|{{.Dir}}|{{join .TestGoFiles " "}} {{join .XTestGoFiles " "}}`, "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	var out []target
	for line := range bytes.Lines(list) {
		parts := strings.SplitN(strings.TrimSpace(string(line)), "|", 3)
		for _, name := range strings.Fields(parts[2]) {
			src, err := os.ReadFile(parts[1] + "/" + name)
			if err != nil {
				return nil, err
			}
			for _, m := range definition.FindAllSubmatch(src, -1) {
				out = append(out, target{parts[0], string(m[1])})
			}
		}
	}
	return out, nil
}
