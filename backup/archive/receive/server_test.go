package receive_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/archivetest"
	"github.com/pgtender/pgtender/backup/archive/receive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestMain makes this program a receiver that can be killed, an archive_command
// and a restore_command too: receive LEADERFILE SPOOL, push %p, get %f %p.
func TestMain(m *testing.M) {
	os.Exit(archivetest.Main(m, archivetest.Options{
		Streamed: true,
		More: map[string]func(context.Context, *repo.Repo, []string) error{
			"receive": func(ctx context.Context, r *repo.Repo, args []string) error {
				return receive.Run(ctx, options(r, args[0], args[1], slog.New(slog.NewTextHandler(os.Stderr, nil))))
			},
		},
	}))
}

// options are a receiver's that finds its leader in a file: socket directory
// and port.
func options(r *repo.Repo, leader, spool string, log *slog.Logger) receive.Options {
	return receive.Options{
		Repo: r, Slot: "receiver", Every: 100 * time.Millisecond, Dir: spool, Log: log,
		Leader: func(context.Context) (receive.Server, error) {
			b, err := os.ReadFile(leader)
			if err != nil {
				return receive.Server{}, err
			}
			host, port, _ := strings.Cut(string(b), " ")
			n, err := strconv.ParseUint(port, 10, 16)
			o := server.Options{Host: host, Port: uint16(n), User: "postgres"}
			return receive.Server{Member: host, Replication: o, SQL: o}, err
		},
	}
}

const (
	systemID = "SELECT system_identifier FROM pg_control_system()"
	segSize  = pg.SegmentSize(1 << 20)
)

// site is a repository with a receiver that runs as a process of its own.
type site struct {
	t       *testing.T
	program string // and its environment, to be followed by a command
	leader  string // file
	spool   string
	repo    *repo.Repo
	process *exec.Cmd
	log     bytes.Buffer
}

func newSite(t *testing.T, c *pgtest.Cluster) *site {
	t.Helper()
	store, system := archivetest.Dir(t), c.Value(t, systemID)
	s := &site{t: t, program: archivetest.Install(t, store, system), spool: t.TempDir()}
	s.leader = filepath.Join(s.spool, "leader")
	s.follow(c)
	var err error
	if s.repo, err = archivetest.Open(t.Context(), store, system); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("the receiver:\n%s", s.log.String())
		}
	})
	return s
}

// follow makes c the leader.
func (s *site) follow(c *pgtest.Cluster) {
	s.t.Helper()
	if err := os.WriteFile(s.leader+".new", fmt.Appendf(nil, "%s %d", c.Host, c.Port), 0o644); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.leader+".new", s.leader); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) start() {
	s.t.Helper()
	words := append(strings.Fields(s.program), "receive", s.leader, s.spool)
	s.process = exec.Command(words[0], words[1:]...)
	s.process.Stderr = &s.log
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// kill ends the receiver as a power cut would.
func (s *site) kill() {
	if s.process != nil {
		s.process.Process.Kill()
		s.process.Wait()
		s.process = nil
	}
}

// end gives how far the repository leads along a history from a position on.
func (s *site) end(h pg.History, from pg.LSN) pg.LSN {
	s.t.Helper()
	c, err := archive.RestoreCoverage(s.t.Context(), s.repo, h, segSize, from)
	if err != nil {
		s.t.Fatal(err)
	}
	if c.Hole() {
		s.t.Fatalf("a hole: %s is missing, %d segments behind it are there", c.Missing.Name(segSize), c.Beyond)
	}
	return c.End()
}

// await waits until the repository holds all WAL before a position.
func (s *site) await(h pg.History, from, to pg.LSN) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); s.end(h, from) < to; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("the repository leads to %s, not to %s", s.end(h, from), to)
		}
	}
}

// compare compares every byte that the repository holds along a history with
// the server's pg_wal.
func (s *site) compare(c *pgtest.Cluster, h pg.History, from pg.LSN) {
	s.t.Helper()
	end := s.end(h, from)
	source := &archive.Source{Repo: s.repo, History: h, SegmentSize: segSize, Streamed: true}
	for n := segSize.SegmentOf(from); segSize.Start(n) < end; n++ {
		f, timeline, err := source.Open(s.t.Context(), n)
		if err != nil {
			s.t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(f, 0, int64(segSize)))
		if err != nil {
			s.t.Fatal(err)
		}
		f.Close()
		name := pg.Segment{Timeline: timeline, Number: n}.Name(segSize)
		want, err := os.ReadFile(filepath.Join(c.DataDir, "pg_wal", name))
		if err != nil {
			s.t.Fatal(err)
		}
		length := min(int64(segSize), int64(end-segSize.Start(n)))
		if !bytes.Equal(got[:length], want[:length]) {
			s.t.Errorf("the first %d bytes of %s differ from the server's", length, name)
		}
		if rest := bytes.TrimRight(got[length:], "\x00"); len(rest) > 0 {
			s.t.Errorf("%s holds %d bytes behind its end", name, len(rest))
		}
	}
}

func flushed(t testing.TB, c *pgtest.Cluster) pg.LSN {
	return lsn(t, c, "SELECT pg_current_wal_flush_lsn()")
}

func lsn(t testing.TB, c *pgtest.Cluster, sql string) pg.LSN {
	t.Helper()
	l, err := pg.ParseLSN(c.Value(t, sql))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestAKilledReceiverLosesNothing kills the receiver and the server under load,
// while the server archives too.
func TestAKilledReceiverLosesNothing(t *testing.T) {
	for _, major := range sample(t, 13, 15, 18) {
		t.Run(fmt.Sprint(major), func(t *testing.T) { killReceiver(t, major) })
	}
}

// sample gives the versions to test: some, or with PGTENDER_SOAK all.
func sample(t *testing.T, some ...int) []int {
	t.Helper()
	return slices.DeleteFunc(pgtest.Majors(t), func(major int) bool {
		return os.Getenv("PGTENDER_SOAK") == "" && !slices.Contains(some, major)
	})
}

func killReceiver(t *testing.T, major int) {
	c := pgtest.New(t, pgtest.Options{Major: major, WALSegSize: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
	s := newSite(t, c)
	if major%2 == 1 {
		c.Configure(t, map[string]string{"archive_mode": "on", "archive_command": s.program + "push %p"})
		c.Restart(t)
	}
	first := pg.FirstTimeline()
	begin := flushed(t, c)
	s.start()
	s.await(first, begin, begin)
	random := rand.New(rand.NewPCG(uint64(major), 3))
	work := c.Workload(uint64(major))
	for round := range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil && work.Step(ctx) == nil {
			}
		}()
		time.Sleep(time.Duration(100+random.IntN(600)) * time.Millisecond) // any moment
		if round == 2 {
			c.Crash(t)
		}
		s.kill()
		cancel()
		<-done
		if round == 2 {
			c.Start(t)
		}
		// The slot must not have let go of what is not stored.
		held := lsn(t, c, "SELECT coalesce(max(restart_lsn), '0/0') FROM pg_replication_slots WHERE slot_name = 'receiver'")
		if end := s.end(first, begin); held > max(end, begin) {
			t.Fatalf("the slot is at %s, the repository leads to %s", held, end)
		}
		s.start()
	}
	c.Exec(t, "CREATE TABLE last AS SELECT generate_series(1, 1000) AS i")
	s.await(first, begin, flushed(t, c))
	s.kill()
	s.compare(c, first, segSize.Start(segSize.SegmentOf(begin)))
}
