package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

type basebackup struct {
	m       *machine
	version string
	workers int
}

func newBasebackup(ctx context.Context, m *machine, o options) (tool, error) {
	if _, err := exec.LookPath("zstd"); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotInstalled, err)
	}
	version, err := m.output(ctx, m.program("pg_basebackup"), "--version")
	return &basebackup{m: m, version: version, workers: o.workers}, err
}

func (t *basebackup) name() string { return "pg_basebackup" }

func (t *basebackup) about() string {
	return fmt.Sprintf("%s, tar, client-zstd level 1, %d threads", t.version, t.workers)
}

func (t *basebackup) dir() string { return t.m.path("pg_basebackup") }

func (t *basebackup) prepare(context.Context) (string, error) {
	// Its WAL comes with it, by a stream of its own.
	return "/bin/true", t.m.mkdir(t.dir(), 0o750)
}

func (t *basebackup) backup() job {
	return job{argv: []string{
		"/bin/sh", "-c", `rm -rf "$1" && exec "$0" -D "$1" -h "$2" -p "$3" -U postgres -c fast -v -F t -X stream --compress="client-zstd:level=1,workers=$4"`,
		t.m.program("pg_basebackup"), t.dir(), t.m.dir, strconv.Itoa(sourcePort), strconv.Itoa(t.workers),
	}}
}

func (t *basebackup) waits(u usage) (checkpoint, wal time.Duration, err error) {
	return u.between("waiting for checkpoint to complete", "checkpoint completed"), 0, nil
}

func (t *basebackup) stored() (int64, error) {
	return size(t.dir(), func(path string) bool { return strings.HasPrefix(filepath.Base(path), "pg_wal.tar") })
}

func (t *basebackup) restore(dir string) job {
	return job{argv: []string{
		"/bin/sh", "-c", `zstd -dcq "$1/base.tar.zst" | tar -xf - -C "$2" && case $(ls "$1") in *pg_wal.tar.zst*) zstd -dcq "$1/pg_wal.tar.zst" | tar -xf - -C "$2/pg_wal";; *) tar -xf "$1/pg_wal.tar" -C "$2/pg_wal";; esac && sync -f "$2"`,
		"restore", t.dir(), dir,
	}}
}
