package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/agent"
	"github.com/pgtender/pgtender/backup/archive/agent/early"
	"github.com/pgtender/pgtender/internal/pg"
)

// archivePrefetchCmd is what archive-get starts beside a recovering server.
func (a *app) archivePrefetchCmd() *cobra.Command {
	var timeline string
	cmd := &cobra.Command{
		Use:   "archive-prefetch DEST",
		Short: "Fetch ahead for archive-get, which starts this by itself",
		Long: `Fetches the WAL segments that follow the one a recovering server asked for last,
into the folder .pgtender-spool beside DEST, until the archive ends, the server is
gone or nobody asked for half a minute.`,
		Example: "  pgtender archive-prefetch pg_wal/RECOVERYXLOG",
		Args:    cobra.ExactArgs(1),
		Hidden:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			t, err := timelineFlag(timeline)
			if err != nil {
				return err
			}
			return n.prefetch(cmd.Context(), args[0], t)
		},
	}
	cmd.Flags().StringVar(&timeline, "timeline", "", "as archive-get has it")
	return cmd
}

func (n *node) prefetch(ctx context.Context, dest string, t pg.Timeline) error {
	dir, fingerprint := dataDirOf(dest), n.fingerprint()
	n.DataDir, n.foreign, n.breaker = dir, false, breakerFor(dest)
	r, err := n.repository(ctx)
	if err != nil {
		return err
	}
	walDir, err := filepath.Abs(filepath.Dir(dest))
	if err != nil {
		return err
	}
	p := &archive.Prefetch{
		Repo: r, WALDir: walDir, Reader: readerOf(fingerprint, t), Lineage: n.lineage(r, t, dir),
		Bytes: int64(n.Archive.Prefetch), Workers: int(n.Archive.Workers), Alive: serverIn(dir), Log: n.log,
	}
	p.Begun = func() (end func()) { return n.answerAhead(ctx, p, fingerprint) }
	return p.Run(ctx)
}

// answerAhead answers archive-gets that ask before they are initialised, as an agent
// does, until end is called. Where it cannot, they take from the spool by themselves.
//
// Its socket has no file (the abstract namespace of unix(7)): one in pg_wal would stop a
// pg_rewind that has this server for its source, which reads whatever it finds there,
// and data directories may have longer paths than sockets. Who is at the other end is
// looked at on both sides.
func (n *node) answerAhead(ctx context.Context, p *archive.Prefetch, fingerprint string) (end func()) {
	if n.file == "" || runtime.GOOS != "linux" {
		return func() {} // there is nothing to compare configurations by, or nobody asks early
	}
	socket := "@pgtender-prefetch-" + rand.Text()
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", socket)
	if err == nil {
		_, err = agent.LeaveHint(filepath.Join(p.WALDir, filepath.Dir(early.SpoolHint)), early.Hint{Socket: socket, Config: n.file})
	}
	if err != nil {
		n.log.DebugContext(ctx, "commands take from the spool by themselves", "error", err)
	}
	if l == nil {
		return func() {}
	}
	s := &standIn{fingerprint: fingerprint, walDir: p.WALDir, handOver: (&fetching{at: p}).handOver}
	h := agent.Handler{Fingerprint: fingerprint, Log: n.log, Early: func(ctx context.Context, q early.Question) (early.Answer, error) { return s.answer(ctx, ctx, q) }}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx, l) }()
	return func() {
		cancel()
		if err := <-served; err != nil {
			n.log.DebugContext(ctx, "commands were not answered", "error", err)
		}
	}
}

// readerOf tells readers of WAL apart that may have different segments.
func readerOf(fingerprint string, t pg.Timeline) string { return fingerprint + " " + t.String() }

// serverIn reports whether a server runs, or recovers, in a data directory.
func serverIn(dir string) func() bool {
	return func() bool { return dir != "" && exists(filepath.Join(dir, "postmaster.pid")) }
}

// wantsAhead reports whether a segment is asked for by a recovering server, so that
// the next ones will be too.
func (n *node) wantsAhead(q getRequest) bool {
	return n.Archive.Prefetch > 0 && archive.IsRecovery(q.name, q.dest) && besideWAL(q.dest, "x") != "" && serverIn(dataDirOf(q.dest))()
}

// fromSpool reports whether the segment was fetched ahead, or by the agent, and
// lies at its destination now.
func (n *node) fromSpool(ctx context.Context, q getRequest) bool {
	fingerprint := n.fingerprint()
	reader := readerOf(fingerprint, q.timeline)
	spool := archive.SpoolIn(filepath.Dir(q.dest))
	if err := spool.Ask(q.name); err != nil {
		n.log.DebugContext(ctx, "nothing is fetched ahead", "error", err)
		return false
	}
	if spool.Take(q.name, q.dest, reader) {
		logAhead(ctx, n.log, q.name)
		return true
	}
	abs, err := filepath.Abs(q.dest)
	if err != nil || n.Agent.Socket == "" {
		return false
	}
	_, err = agent.Ask(ctx, n.Agent.Socket, agent.Request{Fingerprint: fingerprint, Do: agent.DoGet, Name: q.name, Path: abs, Timeline: uint32(q.timeline)})
	if err != nil {
		n.log.DebugContext(ctx, "not fetched by the agent", "file", q.name, "error", err)
		return false
	}
	return spool.Take(q.name, q.dest, reader)
}

func logAhead(ctx context.Context, log *slog.Logger, segment string) {
	log.DebugContext(ctx, "fetched ahead", "file", segment)
}

// fetchAhead gives what starts a process that fetches ahead.
func (n *node) fetchAhead(ctx context.Context, q getRequest) func() {
	return func() {
		if err := q.spawn(q.dest, q.timeline); err != nil {
			n.log.DebugContext(ctx, "nothing is fetched ahead", "error", err)
		}
	}
}

// spawnPrefetch starts a process that outlives this one, for restore_command must
// return: in a session of its own, with the same working directory, flags and
// environment, and with none of PostgreSQL's files open.
func (a *app) spawnPrefetch(dest string, t pg.Timeline) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"archive-prefetch"}
	for _, f := range []struct{ name, value string }{
		{"config", a.configPath}, {"repository", a.repository}, {"cluster", a.cluster}, {"log-level", a.logLevel}, {"log-format", a.logFormat},
	} {
		if f.value != "" {
			args = append(args, "--"+f.name, f.value)
		}
	}
	if t != 0 {
		args = append(args, "--timeline", t.String())
	}
	closeOnExec()
	cmd := exec.Command(program, append(args, "--", dest)...)
	cmd.Env = a.environ
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}
