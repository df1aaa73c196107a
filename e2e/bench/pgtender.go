package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

type pgtender struct {
	m       *machine
	program string
	version string
	workers int
}

func newPgtender(ctx context.Context, m *machine, o options) (tool, error) {
	program, err := m.copyProgram(o.pgtender, "pgtender")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w\nhint: run 'make build', or name the program with --pgtender", err)
	}
	if err != nil {
		return nil, err
	}
	version, err := m.output(ctx, program, "version")
	if err != nil {
		return nil, err
	}
	version, _, _ = strings.Cut(version, "\n")
	return &pgtender{m: m, program: program, version: version, workers: o.workers}, nil
}

func (t *pgtender) name() string  { return "pgtender" }
func (t *pgtender) about() string { return fmt.Sprintf("%s, %d workers", t.version, t.workers) }

const scope = "bench"

func (t *pgtender) config(repository string) (path string, err error) {
	dir := t.m.path(repository)
	if err := t.m.mkdir(dir, 0o750); err != nil {
		return "", err
	}
	path = t.m.path(repository + ".yml")
	// No synthetic full backup comes between incremental ones.
	text := fmt.Sprintf("repository: file://%s\ncluster: %s\ndata_dir: %s\nserver:\n  user: postgres\nbackup:\n  workers: %d\n  synthetic_share: 0\nrestore:\n  workers: %d\n", dir, scope, t.m.path("data"), t.workers, t.workers)
	return path, t.m.writeFile(path, text, 0o644)
}

// memberConfig is a configuration for another data directory, with an agent's
// socket of its own, and a repository here or on a remote server.
func (t *pgtender) memberConfig(repository, dataDir string, far *remote) (path string, err error) {
	if err := t.m.mkdir(t.m.path(repository), 0o750); err != nil {
		return "", err
	}
	path = t.m.path(repository + ".yml")
	where := fmt.Sprintf("repository: file://%s\n", t.m.path(repository))
	if far != nil {
		where = far.pgtender(repository)
	}
	text := where + fmt.Sprintf("cluster: %s\ndata_dir: %s\nserver:\n  user: postgres\nagent:\n  socket: %s\n", scope, dataDir, t.m.path("agent", "socket"))
	return path, t.m.writeFile(path, text, 0o644)
}

func (t *pgtender) prepare(context.Context) (string, error) {
	config, err := t.config("pgtender-repo")
	return fmt.Sprintf("%s --config %s archive-push %%p", t.program, config), err
}

func (t *pgtender) run(repository string, args ...string) job {
	return job{argv: append([]string{t.program, "--config", t.m.path(repository + ".yml")}, args...)}
}

func (t *pgtender) backup() job { return t.run("pgtender-repo", "--json", "backup", "--kind", "full") }

func (t *pgtender) incremental() job {
	return t.run("pgtender-repo", "--json", "backup", "--kind", "incremental")
}

func (t *pgtender) synthetic() job { return t.run("pgtender-repo", "backup", "--kind", "synthetic") }

func (t *pgtender) waits(u usage) (checkpoint, wal time.Duration, err error) {
	return parseResult(u.out)
}

func (t *pgtender) stored() (int64, error) {
	return size(t.m.path("pgtender-repo"), func(path string) bool {
		return strings.Contains(path, "/wal/") || strings.Contains(path, "/history/")
	})
}

func (t *pgtender) restore(dir string) job {
	return t.run("pgtender-repo", "restore", "--target-dir", dir)
}

func (t *pgtender) pushTo(_ context.Context, name string) (job, error) {
	_, err := t.config("pgtender-" + name)
	return t.run("pgtender-"+name, "archive-push"), err
}

// parseResult takes the waits out of what pgtender backup --json prints.
func parseResult(out []byte) (checkpoint, wal time.Duration, err error) {
	var r struct {
		Checkpoint *time.Duration `json:"checkpoint_ns"`
		WAL        *time.Duration `json:"wal_ns"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return 0, 0, fmt.Errorf("parse the result of pgtender backup: %w", err)
	}
	if r.Checkpoint == nil || r.WAL == nil {
		return 0, 0, errors.New("parse the result of pgtender backup: checkpoint_ns or wal_ns is missing")
	}
	return *r.Checkpoint, *r.WAL, nil
}
