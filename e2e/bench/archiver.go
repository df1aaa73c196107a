package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// archiver does what PostgreSQL's archiver does (pgarch.c): one command after the
// other, each through a shell, and then the file's mark, which takes no process. The
// bench starts itself as one.
type archiver struct {
	Dir      string // the data directory
	Command  string // archive_command, without the path
	Segments []string
}

// asArchiver is the first argument of such a start.
const asArchiver = "archive-a-backlog"

// What it prints before the first segment, and when the last one is archived.
const (
	archiverBegins = "archiving begins"
	archiverEnds   = "all is archived"
)

// archiver gives the job.
func (x *member) archiver(command string) (job, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = x.m.copyProgram(self, "bench")
	}
	if err != nil {
		return job{}, err
	}
	options, err := json.Marshal(archiver{Dir: x.dir, Command: command, Segments: x.segments})
	return job{argv: []string{self, asArchiver, string(options)}}, err
}

// archivingTook gives the time between the archiver's two lines.
func (u *usage) archivingTook() time.Duration { return u.between(archiverBegins, archiverEnds) }

// runArchiver is such a start. In the end it waits for what the commands left behind,
// as a tool that works on while PostgreSQL goes on: its processor time counts, too.
func runArchiver(_ context.Context, options string, out io.Writer) error {
	var a archiver
	if err := json.Unmarshal([]byte(options), &a); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("take in what others leave behind: %w", err)
	}
	nothing, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer nothing.Close()
	fmt.Fprintln(out, archiverBegins)
	for _, segment := range a.Segments {
		if err := a.archive(segment, nothing); err != nil {
			return fmt.Errorf("archive %s: %w", segment, err)
		}
	}
	fmt.Fprintln(out, archiverEnds)
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); errors.Is(err, unix.ECHILD) {
			return nil
		} else if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for what the commands left behind: %w", err)
		}
	}
}

// archive runs the command for one segment and changes its mark.
func (a *archiver) archive(segment string, nothing *os.File) error {
	argv := []string{"/bin/sh", "-c", a.Command + " pg_wal/" + segment}
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Dir: a.Dir, Files: []*os.File{nothing, nothing, os.Stderr}})
	if err != nil {
		return err
	}
	state, err := p.Wait()
	if err != nil {
		return err
	}
	if !state.Success() {
		return fmt.Errorf("%s: %s", argv[2], state)
	}
	mark := filepath.Join(a.Dir, "pg_wal", "archive_status", segment)
	return os.Rename(mark+".ready", mark+".done")
}
