package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

type pgbackrest struct {
	m       *machine
	label   string
	program string
	version string
	level   int
	workers int
	block   bool
}

func newPgbackrest(ctx context.Context, m *machine, o options, label string, level int) (tool, error) {
	program, err := exec.LookPath(o.pgbackrest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotInstalled, err)
	}
	if program, err = filepath.Abs(program); err != nil {
		return nil, err
	}
	version, err := m.output(ctx, program, "version")
	if err != nil {
		return nil, err
	}
	block, err := hasBlock(version)
	return &pgbackrest{m: m, label: label, program: program, version: version, level: level, workers: o.workers, block: block}, err
}

// hasBlock reports whether repo-block is known: since 2.46.
func hasBlock(version string) (bool, error) {
	found := regexp.MustCompile(`(\d+)\.(\d+)`).FindStringSubmatch(version)
	if found == nil {
		return false, fmt.Errorf("pgbackrest version: unexpected output %q", version)
	}
	first, err1 := strconv.Atoi(found[1])
	second, err2 := strconv.Atoi(found[2])
	return first > 2 || first == 2 && second >= 46, errors.Join(err1, err2)
}

func (t *pgbackrest) name() string { return t.label }

func (t *pgbackrest) about() string {
	block := ""
	if t.block {
		block = ", block"
	}
	return fmt.Sprintf("%s, zst level %d, bundle%s, process-max %d", t.version, t.level, block, t.workers)
}

func (t *pgbackrest) config(repository string, far *remote) (path string, err error) {
	// What is acknowledged in a spool is not pushed again, into whichever repository.
	spool := repository + "-spool"
	for _, dir := range []string{repository, "pgbackrest-lock", spool} {
		if err := t.m.mkdir(t.m.path(dir), 0o750); err != nil {
			return "", err
		}
	}
	block := ""
	if t.block {
		block = "repo1-block=y\n"
	}
	where := fmt.Sprintf("repo1-path=%s\n", t.m.path(repository))
	if far != nil {
		where = far.pgbackrest(repository)
	}
	path = t.m.path(repository + ".conf")
	return path, t.m.writeFile(path, fmt.Sprintf(`[global]
%srepo1-bundle=y
%scompress-type=zst
compress-level=%d
process-max=%d
start-fast=y
repo1-retention-full=9999999
log-level-file=off
log-level-console=info
lock-path=%s
spool-path=%s
[%s]
pg1-path=%s
pg1-socket-path=%s
pg1-port=%d
pg1-user=postgres
`, where, block, t.level, t.workers, t.m.path("pgbackrest-lock"), t.m.path(spool), scope, t.m.path("data"), t.m.dir, sourcePort), 0o644)
}

func (t *pgbackrest) repository() string { return t.label + "-repo" }

func (t *pgbackrest) run(repository string, args ...string) job {
	return job{argv: append([]string{t.program, "--config=" + t.m.path(repository+".conf"), "--stanza=" + scope}, args...)}
}

func (t *pgbackrest) make(ctx context.Context, repository string, far *remote) error {
	if _, err := t.config(repository, far); err != nil {
		return err
	}
	_, err := t.m.output(ctx, t.run(repository, "stanza-create").argv...)
	return err
}

func (t *pgbackrest) prepare(ctx context.Context) (string, error) {
	err := t.make(ctx, t.repository(), nil)
	return t.run(t.repository(), "archive-push").String() + " %p", err
}

func (t *pgbackrest) backup() job { return t.run(t.repository(), "--type=full", "backup") }

func (t *pgbackrest) incremental() job { return t.run(t.repository(), "--type=incr", "backup") }

func (t *pgbackrest) waits(u usage) (checkpoint, wal time.Duration, err error) {
	return u.between("backup start: backup begins after", "backup start archive ="),
		u.between("wait for all WAL segments to archive", "backup stop archive =") + u.between("check archive for segment", "new backup label ="), nil
}

func (t *pgbackrest) stored() (int64, error) { return size(t.m.path(t.repository(), "backup"), nil) }

func (t *pgbackrest) restore(dir string) job {
	return t.run(t.repository(), "--pg1-path="+dir, "restore")
}

func (t *pgbackrest) pushTo(ctx context.Context, name string) (job, error) {
	repository := t.label + "-" + name
	return t.run(repository, "archive-push"), t.make(ctx, repository, nil)
}
