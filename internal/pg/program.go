package pg

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

// programVersion is in what every program of PostgreSQL prints for --version:
// "postgres (PostgreSQL) 17.2 (Debian ...)", or 18beta1, or 19devel.
var programVersion = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// ProgramMajor asks a program of PostgreSQL, such as postgres or psql, for its
// major version. It runs the program.
func ProgramMajor(ctx context.Context, program string) (int, error) {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("ask %s for its version: %w", program, err)
	}
	found := programVersion.FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("ask %s for its version: it says %q", program, out)
	}
	return strconv.Atoi(string(found[1]))
}
