package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/quit"
)

// The test binary runs again as the command itself, from scripts and from tests
// that need a process of its own.
func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){
		"pgtender": main,
		"pgtender-panics": func() {
			os.Exit(process(func(context.Context, []string, []string, streams) int { panic("a fault of the program") }))
		},
	})
}

// tests are run with SIGQUIT as Go has it: go test asks so for the stacks of a
// test that hangs.
type tests struct{ *testing.M }

func (t tests) Run() int {
	quit.Stop()
	return t.M.Run()
}

// Whoever types --help sees how it is used, and what the exit status means.
func TestEveryCommandExplainsItself(t *testing.T) {
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Example == "" && cmd.HasParent() {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		if !strings.Contains(cmd.Long, "Exit status:") {
			t.Errorf("the help of %s does not say what its exit status means", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit((&app{}).root())
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			// No file of the machine, nor the environment of whoever runs this.
			e.Setenv("PGTENDER_CONFIG", e.WorkDir+"/pgtender.yml")
			e.Setenv("AWS_ACCESS_KEY_ID", "nobody")
			e.Setenv("AWS_SECRET_ACCESS_KEY", "nothing")
			e.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			// Else each command pauses for a second before it exits.
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			return expand(e.WorkDir+"/pgtender.yml", e.WorkDir)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":  cmdStatus,
			"segment": cmdSegment,
		},
		RequireUniqueNames: true,
	})
}

// expand puts the script's own directory for $WORK, as in the script itself.
func expand(path, workDir string) error {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(path, bytes.ReplaceAll(content, []byte("$WORK"), []byte(workDir)), 0o600)
}

// cmdStatus runs a command and compares its exit status: status 126 pgtender …
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode() // -1 if a signal ended it
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// The cluster that the scripts are about.
const (
	scriptSystemID    = pg.SystemID(7700000000000000001)
	scriptSegmentSize = 1 << 20 // the smallest
)

// cmdSegment writes a WAL segment of timeline 1 that holds nothing but its end:
// segment pg_wal 3 [prev] writes pg_wal/000000010000000000000003. prev, the
// position of the record before, makes equal segments different.
func cmdSegment(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: segment dir number [prev]")
	}
	n, err := strconv.ParseUint(args[1], 10, 32)
	ts.Check(err)
	prev := uint64(n)<<20 - 64
	if len(args) == 3 {
		prev, err = strconv.ParseUint(args[2], 10, 64)
		ts.Check(err)
	}
	name := pg.Segment{Timeline: 1, Number: pg.SegmentNumber(n)}.Name(scriptSegmentSize)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+"/"+name), segment(n, prev), 0o600))
}

// segment builds the WAL of PostgreSQL 17 that ends at its first record by a
// switch (XLogLongPageHeaderData, xlog_internal.h; XLogRecord, xlogrecord.h).
func segment(n, prev uint64) []byte {
	le := binary.LittleEndian
	b := make([]byte, scriptSegmentSize)
	le.PutUint16(b, 0xD116)
	le.PutUint16(b[2:], 2) // XLP_LONG_HEADER
	le.PutUint32(b[4:], 1)
	le.PutUint64(b[8:], n<<20)
	le.PutUint64(b[24:], uint64(scriptSystemID))
	le.PutUint32(b[32:], scriptSegmentSize)
	le.PutUint32(b[36:], 8192)
	rec := b[40:64]
	le.PutUint32(rec, 24)
	le.PutUint64(rec[8:], prev)
	rec[16] = 0x40 // XLOG_SWITCH of resource manager 0
	le.PutUint32(rec[20:], crc32.Checksum(rec[:20], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// A program's fault must end the process by a signal: PostgreSQL reads any plain
// status up to 125 of a restore_command as "not in the archive".
func TestAPanicEndsByASignal(t *testing.T) {
	err := exec.Command("pgtender-panics").Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Errorf("ended with %v, want a signal", err)
	}
}
