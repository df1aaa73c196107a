package main

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A restore_command that is told to stop says so by its status, by which
// PostgreSQL knows that it shuts down and not that the archive has ended.
func TestArchiveGetEndedByASignal(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, tc := range []struct {
		signal syscall.Signal
		want   int
	}{{syscall.SIGTERM, 143}, {syscall.SIGINT, 130}, {syscall.SIGHUP, 129}, {syscall.SIGQUIT, 131}} {
		t.Run(tc.signal.String(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := exec.Command("pgtender", "--log-level", "debug", "archive-get", "000000010000000000000003", filepath.Join(dir, "got"))
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "PGTENDER_CONFIG="+os.DevNull, "PGTENDER_REPOSITORY=s3://bucket/x", "PGTENDER_S3_ENDPOINT=http://"+silent.Addr().String(),
				"PGTENDER_CLUSTER=main/7700000000000000001", "PGTENDER_S3_REGION=us-east-1",
				"AWS_ACCESS_KEY_ID=nobody", "AWS_SECRET_ACCESS_KEY=nothing", "AWS_EC2_METADATA_DISABLED=true")
			errs, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(errs)
			var said []string
			for lines.Scan() { // ends with the process
				said = append(said, lines.Text())
				if strings.Contains(lines.Text(), "asking the archive") {
					if err := cmd.Process.Signal(tc.signal); err != nil {
						t.Fatal(err)
					}
				}
			}
			err = cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != tc.want {
				t.Errorf("ended with %v, want exit status %d\n%s", err, tc.want, strings.Join(said, "\n"))
			}
		})
	}
}
