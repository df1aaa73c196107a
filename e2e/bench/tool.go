package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
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

var toolNames = []string{"pgtender", "pgbackrest", "pgbackrest-zst3", "pg_basebackup"}

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
	}
	return nil, fmt.Errorf("--tools: %q is none of %s", name, strings.Join(toolNames, ", "))
}

// ---------------------------------------------------------------------------

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
	text := fmt.Sprintf("repository: file://%s\ncluster: %s\ndata_dir: %s\nbackup:\n  workers: %d\nrestore:\n  workers: %d\n", dir, scope, t.m.path("data"), t.workers, t.workers)
	return path, t.m.writeFile(path, text, 0o644)
}

func (t *pgtender) prepare(context.Context) (string, error) {
	config, err := t.config("pgtender-repo")
	return fmt.Sprintf("%s --config %s archive-push %%p", t.program, config), err
}

func (t *pgtender) run(repository string, args ...string) job {
	return job{argv: append([]string{t.program, "--config", t.m.path(repository + ".yml")}, args...)}
}

func (t *pgtender) backup() job { return t.run("pgtender-repo", "--json", "backup") }

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

// ---------------------------------------------------------------------------

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

func (t *pgbackrest) config(repository string) (path string, err error) {
	for _, dir := range []string{repository, "pgbackrest-lock", "pgbackrest-spool"} {
		if err := t.m.mkdir(t.m.path(dir), 0o750); err != nil {
			return "", err
		}
	}
	block := ""
	if t.block {
		block = "repo1-block=y\n"
	}
	path = t.m.path(repository + ".conf")
	return path, t.m.writeFile(path, fmt.Sprintf(`[global]
repo1-path=%s
repo1-bundle=y
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
`, t.m.path(repository), block, t.level, t.workers, t.m.path("pgbackrest-lock"), t.m.path("pgbackrest-spool"), scope, t.m.path("data"), t.m.dir, sourcePort), 0o644)
}

func (t *pgbackrest) repository() string { return t.label + "-repo" }

func (t *pgbackrest) run(repository string, args ...string) job {
	return job{argv: append([]string{t.program, "--config=" + t.m.path(repository+".conf"), "--stanza=" + scope}, args...)}
}

func (t *pgbackrest) make(ctx context.Context, repository string) error {
	if _, err := t.config(repository); err != nil {
		return err
	}
	_, err := t.m.output(ctx, t.run(repository, "stanza-create").argv...)
	return err
}

func (t *pgbackrest) prepare(ctx context.Context) (string, error) {
	err := t.make(ctx, t.repository())
	return t.run(t.repository(), "archive-push").String() + " %p", err
}

func (t *pgbackrest) backup() job { return t.run(t.repository(), "--type=full", "backup") }

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
	return t.run(repository, "archive-push"), t.make(ctx, repository)
}

// ---------------------------------------------------------------------------

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
