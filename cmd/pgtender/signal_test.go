package main

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A restore_command or archive_command that is told to stop says so by its
// status, by which PostgreSQL knows that it shuts down and neither that the
// archive has ended nor that archiving failed.
func TestACommandEndedByASignal(t *testing.T) {
	for name, args := range map[string][]string{
		"archive-get":  {"archive-get", "000000010000000000000003", "got"},
		"archive-push": {"archive-push", "00000002.history"},
	} {
		for _, tc := range []struct {
			signal syscall.Signal
			want   int
		}{{syscall.SIGTERM, 143}, {syscall.SIGINT, 130}, {syscall.SIGHUP, 129}, {syscall.SIGQUIT, 131}} {
			t.Run(name+" by "+tc.signal.String(), func(t *testing.T) {
				t.Parallel()
				silent, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}) // takes connections, never answers
				if err != nil {
					t.Fatal(err)
				}
				defer silent.Close()
				cmd := command(t, args...)
				cmd.Env = append(cmd.Env, "PGTENDER_REPOSITORY=s3://bucket/x", "PGTENDER_S3_ENDPOINT=http://"+silent.Addr().String(),
					"PGTENDER_CLUSTER=main/7700000000000000001", "PGTENDER_S3_REGION=us-east-1",
					"AWS_ACCESS_KEY_ID=nobody", "AWS_SECRET_ACCESS_KEY=nothing", "AWS_EC2_METADATA_DISABLED=true")
				if err := os.WriteFile(filepath.Join(cmd.Dir, "00000002.history"), []byte("1\t0/5000000\tno recovery target specified\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				var said bytes.Buffer
				cmd.Stderr = &said
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if err := silent.SetDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
				connection, err := silent.Accept()
				if err != nil {
					cmd.Process.Kill()
					t.Fatalf("it never asks the store: %v, %v\n%s", err, cmd.Wait(), &said)
				}
				defer connection.Close()
				if err := cmd.Process.Signal(tc.signal); err != nil {
					t.Fatal(err)
				}
				endsWith(t, cmd, tc.want, &said)
			})
		}
	}
}

// Go's own answer to a SIGQUIT is to print its stacks and to exit with 2, which
// recovery takes for the end of the archive.
func TestASIGQUITBeforeMain(t *testing.T) {
	cmd := command(t, "archive-get", "000000010000000000000003", "got")
	cmd.Env = append(cmd.Env, "GODEBUG=inittrace=1", "PGTENDER_REPOSITORY=file:///nowhere", "PGTENDER_CLUSTER=main/7700000000000000001")
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	sent := false
	for lines := bufio.NewScanner(errs); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		switch {
		case strings.HasPrefix(lines.Text(), "init github.com/pgtender/pgtender/internal/quit "):
			if err := cmd.Process.Signal(syscall.SIGQUIT); err != nil {
				t.Fatal(err)
			}
			sent = true
		case strings.HasPrefix(lines.Text(), "init google.golang.org/protobuf/") && !sent:
			t.Error("the clients of the DCS, which take long, are initialised before SIGQUIT is caught")
			sent = true
		case strings.Contains(lines.Text(), "goroutine "):
			t.Error("it printed its stacks")
		}
	}
	endsWith(t, cmd, 131, &said)
}

// command is the program as a process, in a folder of its own.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("pgtender", args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PGTENDER_CONFIG="+os.DevNull)
	return cmd
}

func endsWith(t *testing.T, cmd *exec.Cmd, want int, said *bytes.Buffer) {
	t.Helper()
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != want {
		t.Errorf("ended with %v, want exit status %d\n%s", err, want, said)
	}
}
