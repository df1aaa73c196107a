package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// tool is a backup tool under measure.
type tool interface {
	name() string
	// about is the version and the settings, for the report.
	about() string
	// prepare makes the repository and configuration, and gives the
	// archive_command the server needs while the tool is measured.
	prepare(ctx context.Context) (archiveCommand string, err error)
}

// backer is a tool that takes backups.
type backer interface {
	tool
	// backup is a full backup of the source with the checkpoint at once.
	backup() job
	// waits gives how long a backup waited for the server's checkpoint and for
	// its WAL to be archived.
	waits(u usage) (checkpoint, wal time.Duration, err error)
	// stored gives the bytes of all backups in the repository without WAL.
	stored() (int64, error)
	// restore restores the newest backup into dir, which is empty, and leaves
	// it durable.
	restore(dir string) job
}

// pusher is a tool that archives WAL itself.
type pusher interface {
	tool
	// pushTo makes another repository, and gives the program that pushes the
	// file whose path is added to it.
	pushTo(ctx context.Context, name string) (job, error)
}

// incrementer is a tool that can back up what changed since its last backup.
type incrementer interface {
	backer
	incremental() job
}

// synthesizer is a tool that can make a full backup of its newest one, without
// the server.
type synthesizer interface {
	incrementer
	synthetic() job
}

var toolNames = []string{"pgtender", "pgbackrest", "pgbackrest-zst3", "pg_basebackup", "pg_rewind"}

// errNotInstalled is why a peer is left out.
var errNotInstalled = errors.New("not installed")

// newTool finds a tool's program and what it can do.
func (m *machine) newTool(ctx context.Context, name string, o options) (tool, error) {
	switch name {
	case "pgtender":
		return newPgtender(ctx, m, o)
	case "pgbackrest":
		return newPgbackrest(ctx, m, o, name, 1)
	case "pgbackrest-zst3":
		return newPgbackrest(ctx, m, o, name, 3)
	case "pg_basebackup":
		return newBasebackup(ctx, m, o)
	case "pg_rewind":
		return newRewind(ctx, m)
	}
	return nil, fmt.Errorf("--tools: %q is none of %s", name, strings.Join(toolNames, ", "))
}
