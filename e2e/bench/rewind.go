package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
)

// rewind is pg_rewind, which copies from the running source what changed on either
// branch.
type rewind struct {
	m       *machine
	version string
}

func newRewind(ctx context.Context, m *machine) (tool, error) {
	if _, err := exec.LookPath(m.program("pg_rewind")); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errNotInstalled, err)
	}
	version, err := m.output(ctx, m.program("pg_rewind"), "--version")
	return &rewind{m: m, version: version}, err
}

func (t *rewind) name() string { return "pg_rewind" }

func (t *rewind) about() string { return t.version }

func (t *rewind) prepare(context.Context) (string, error) { return "/bin/true", nil }

func (t *rewind) repository() string { return "" }

func (t *rewind) catchup(_ context.Context, dir string, _ comeback) (job, error) {
	return job{argv: []string{t.m.program("pg_rewind"), "-D", dir, fmt.Sprintf("--source-server=host=%s port=%d user=postgres dbname=postgres", t.m.dir, sourcePort)}}, nil
}
