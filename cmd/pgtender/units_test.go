package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnitsStartWhatThereIs reads the systemd units that are shipped: each starts
// a daemon that exists, with flags and arguments that it takes, and systemd
// knows every key.
func TestUnitsStartWhatThereIs(t *testing.T) {
	units, err := filepath.Glob("../../contrib/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	for _, path := range units {
		name := filepath.Base(path)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		const program = "/usr/local/bin/pgtender" // where README's installation puts it
		starts := 0
		for line := range strings.Lines(string(content)) {
			command, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart=")
			if !ok {
				continue
			}
			starts++
			args := strings.Fields(command)
			if args[0] != program {
				t.Errorf("%s starts %s", name, args[0])
			}
			cmd, rest, err := (&app{}).root().Find(args[1:])
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err == nil {
				err = cmd.ValidateArgs(cmd.Flags().Args())
			}
			if err != nil || "pgtender-"+cmd.Name()+".service" != name {
				t.Errorf("%s starts %q, which is %q: %v", name, command, cmd.CommandPath(), err)
			}
		}
		if starts != 1 {
			t.Errorf("%s starts %d commands", name, starts)
		}
		verifyUnit(t, name, strings.ReplaceAll(string(content), program, "/bin/true"))
	}
}

// verifyUnit has systemd read a unit, where it is installed.
func verifyUnit(t *testing.T, name, content string) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Logf("%s: systemd is not installed, so that only its command was looked at", name)
		return
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	// It ends with 0 in spite of keys that it does not know, and says so.
	out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput()
	if complaint := aboutUnit(string(out), name); err != nil && complaint == "" {
		t.Logf("%s: systemd-analyze cannot verify here: %v: %s", name, err, out)
	} else if complaint != "" {
		t.Errorf("%s: %s", name, complaint)
	}
}

// aboutUnit gives the lines that speak of the unit: on some machines others do not
// load.
func aboutUnit(out, name string) string {
	var about []string
	for line := range strings.Lines(out) {
		if strings.Contains(line, name) {
			about = append(about, strings.TrimSpace(line))
		}
	}
	return strings.Join(about, "; ")
}
