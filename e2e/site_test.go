package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/dcs/dcstest"
	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// site is a Patroni cluster whose members use pgtender, and its repository.
type site struct {
	*lab.Test
	bin   string
	repo  *repository
	extra string // of each member's pgtender.yml

	// With siteOptions.Links, each member's way to the DCS and to the S3 server,
	// by its name.
	links, store map[string]*dcstest.Network
}

type siteOptions struct {
	lab.Options
	S3   bool        // the repository is a bucket; else a directory
	Repo *repository // of another site, in place of an own one
	// Bootstrap has the arguments of pgtender bootstrap, "" means initdb.
	Bootstrap string
	// Extra lines for each member's pgtender.yml.
	Extra string
	// Links gives each member ways of its own to the DCS and to the S3 server,
	// which can be cut.
	Links bool
	// Archive wraps each member's archive_command.
	Archive func(n *lab.Node, command string) string
}

// prepareSite makes everything but starts no member.
func prepareSite(t *testing.T, o siteOptions) *site {
	t.Helper()
	s := &site{bin: program(t), extra: o.Extra, links: map[string]*dcstest.Network{}, store: map[string]*dcstest.Network{}}
	o.Configure = func(c *lab.NodeConfig) {
		if o.Links {
			link := dcstest.NewNetwork(t, c.DCSAddress)
			s.links[c.Node.Name], c.DCSAddress = link, link.Address()
		}
		c.ArchiveCommand = s.onNode(c.Node, "archive-push %p")
		if o.Archive != nil {
			c.ArchiveCommand = o.Archive(c.Node, c.ArchiveCommand)
		}
		c.RestoreCommand = s.onNode(c.Node, "archive-get %f %p")
		if o.Bootstrap != "" {
			c.Bootstrap = &lab.Method{Name: "pgtender", Options: map[string]any{
				"command": s.onNode(c.Node, "bootstrap "+o.Bootstrap), "keep_existing_recovery_conf": true,
			}}
		}
	}
	s.Test = lab.Ready(t, o.Options)
	if s.repo = o.Repo; s.repo == nil {
		s.repo = newRepository(t, s, o.S3)
	}
	for _, n := range s.Nodes {
		if o.Links && s.repo.address != "" {
			s.store[n.Name] = dcstest.NewNetwork(t, s.repo.address)
		}
		s.configure(t, n)
	}
	return s
}

// startSite is prepareSite with all members running, streaming and archiving.
func startSite(t *testing.T, o siteOptions) *site {
	t.Helper()
	s := prepareSite(t, o)
	s.up(t)
	return s
}

func (s *site) up(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Up(ctx); err != nil {
		t.Fatal(err)
	}
}

// patience bounds whatever a test waits for. It is long because machines can be
// slow, and costs nothing where they are not.
const patience = 4 * time.Minute

// configure writes the member's pgtender.yml: two lines on a Patroni node.
func (s *site) configure(t *testing.T, n *lab.Node) {
	t.Helper()
	text := fmt.Sprintf("patroni: %s\nrepository: %s\n%s%s", n.ConfigFile, s.repo.url, s.repo.settings(s.store[n.Name]), s.extra)
	if err := s.WriteFile(configFile(n), []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func configFile(n *lab.Node) string { return filepath.Join(n.Dir, "pgtender.yml") }

// onNode is a command line as it stands in patroni.yml.
func (s *site) onNode(n *lab.Node, command string) string {
	return fmt.Sprintf("%s -c %s %s", s.bin, configFile(n), command)
}

// useMethod makes pgtender the only way in which members are created from now
// on: with a fallback nobody would notice that it failed. The first members of a
// cluster are cloned by pg_basebackup, for there is no backup yet. options are
// those of Patroni's configuration, such as keep_data.
func (s *site) useMethod(t testing.TB, options map[string]any) {
	t.Helper()
	for _, n := range s.Nodes {
		err := n.WriteConfig(func(c *lab.NodeConfig) {
			all := map[string]any{"command": s.onNode(n, "create-replica")}
			maps.Copy(all, options)
			c.CreateReplica = []lab.Method{{Name: "pgtender", Options: all}}
		})
		if err == nil && n.Running() {
			err = n.Reload(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// server is the member's PostgreSQL, for what package pgtest knows to do with one.
func server(s *site, n *lab.Node) *pgtest.Cluster {
	return &pgtest.Cluster{Major: s.Major, BinDir: s.BinDir(), DataDir: n.DataDir, Host: n.Dir, Port: n.Port}
}

// outcome is how a run of pgtender ended.
type outcome struct {
	line           string
	code           int // -1: by a signal
	stdout, stderr string
}

func (o outcome) String() string {
	return fmt.Sprintf("%s\nexit status %d\nstdout: %s\nstderr: %s", o.line, o.code, o.stdout, o.stderr)
}

// command prepares a run of pgtender on a member, as cron would: as the servers'
// user, with next to nothing in the environment. Without a member it is a bare
// host that knows nothing but the arguments.
func (s *site) command(ctx context.Context, n *lab.Node, args ...string) *exec.Cmd {
	if n != nil {
		args = append([]string{"-c", configFile(n)}, args...)
	}
	return s.Command(ctx, s.bin, args...)
}

// running is a pgtender that has been started.
type running struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	cancel         context.CancelFunc
}

func (s *site) start(t testing.TB, n *lab.Node, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	r := &running{cmd: s.command(ctx, n, args...), cancel: cancel}
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	if err := r.cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	return r
}

func (r *running) wait(t testing.TB) outcome {
	t.Helper()
	defer r.cancel()
	err := r.cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{strings.Join(r.cmd.Args[1:], " "), r.cmd.ProcessState.ExitCode(), r.stdout.String(), r.stderr.String()}
}

// run runs pgtender on a member.
func (s *site) run(t testing.TB, n *lab.Node, args ...string) outcome {
	t.Helper()
	return s.start(t, n, args...).wait(t)
}

// must runs pgtender on a member and ends the test unless it exits with 0.
func (s *site) must(t testing.TB, n *lab.Node, args ...string) outcome {
	t.Helper()
	o := s.run(t, n, args...)
	if o.code != 0 {
		t.Fatal(o)
	}
	return o
}

// refused runs pgtender and wants it to fail with status 1, saying each of the words.
func (s *site) refused(t testing.TB, n *lab.Node, args []string, words ...string) {
	t.Helper()
	o := s.run(t, n, args...)
	if o.code != 1 {
		t.Errorf("want a refusal with status 1: %v", o)
	}
	for _, word := range words {
		if !strings.Contains(o.stderr, word) {
			t.Errorf("the refusal does not say %q: %v", word, o)
		}
	}
}

// query runs a command with --json and decodes what it prints.
func (s *site) query(t testing.TB, n *lab.Node, into any, args ...string) {
	t.Helper()
	o := s.must(t, n, append(args, "--json")...)
	if err := json.Unmarshal([]byte(o.stdout), into); err != nil {
		t.Fatalf("%v\n%v", err, o)
	}
}
