package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

var (
	code       = regexp.MustCompile("(?s)```.*?```|`[^`\n]+`")
	documented = regexp.MustCompile("(?m)^(?:`| *\\$ |[+ ]*command: )?(?:/usr/local/bin/)?(pgtender (?:-c \\S+ )?([a-z-]+)\\b[^`\n]*)")
	longFlag   = regexp.MustCompile(`--[a-z-]+`)
)

func TestDocumentedCommandsExist(t *testing.T) {
	tool := built(t).tool
	help := map[string]string{}
	found := 0
	for _, name := range []string{"../../README.md", "../../docs/operations.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range documented.FindAllStringSubmatch(strings.Join(code.FindAllString(string(text), -1), "\n"), -1) {
			line, command := match[1], match[2]
			if _, known := help[command]; !known {
				out, err := exec.Command(tool, "help", command).CombinedOutput()
				if err != nil || !strings.Contains(string(out), "Usage:\n  pgtender "+command+" ") {
					t.Errorf("%s: %q: there is no command %s", name, line, command)
				}
				help[command] = string(out)
			}
			if command == "wal" {
				command = "acknowledge"
				out, err := exec.Command(tool, "help", "wal", command).CombinedOutput()
				if err != nil {
					t.Fatal(err)
				}
				help[command] = string(out)
			}
			for _, flag := range longFlag.FindAllString(line, -1) {
				if !strings.Contains(help[command], flag+" ") && !strings.Contains(help[command], flag+"[") {
					t.Errorf("%s: %q: %s has no flag %s", name, line, command, flag)
				}
			}
			found++
		}
	}
	if found < 20 {
		t.Errorf("%d command lines found in the documents: the pattern misses most", found)
	}
}
