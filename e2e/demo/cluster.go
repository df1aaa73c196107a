package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/servertest"
)

const scope = "demo"

// labOptions is the cluster to show: what the README tells users to put into
// patroni.yml, and nothing else that concerns pgtender.
func (t *tour) labOptions() lab.Options {
	return lab.Options{
		Dir: t.dir, Scope: scope, Patroni: "4.1", DCS: "etcd", Nodes: 3, Synchronous: "on",
		Configure: func(c *lab.NodeConfig) {
			c.ArchiveCommand = t.hook(c.Node, "archive-push %p")
			c.RestoreCommand = t.hook(c.Node, "archive-get %f %p")
			// The demo counts which files are read while the backup runs: with
			// autovacuum, PostgreSQL would read some on its own account.
			c.Parameters = map[string]any{"autovacuum": "off"}
		},
	}
}

// hook is a command of pgtender as Patroni and PostgreSQL are to call it.
func (t *tour) hook(n *lab.Node, command string) string {
	return t.tool + " -c " + filepath.Join(n.Dir, "pgtender.yml") + " " + command
}

// makeReplicas has Patroni make replicas with pgtender from now on. A user does
// so after the first backup, too: before, there is nothing to make one from.
func (t *tour) makeReplicas(ctx context.Context) error {
	for _, n := range t.cluster.Nodes {
		err := n.WriteConfig(func(c *lab.NodeConfig) {
			c.CreateReplica = []lab.Method{
				{Name: "pgtender", Options: map[string]any{"command": t.hook(n, "create-replica"), "keep_data": true}},
				{Name: "basebackup"},
			}
		})
		if err != nil {
			return err
		}
		if err := n.Reload(ctx); err != nil {
			return err
		}
	}
	return nil
}

// prepare fills the folder with the program, each node's two-line
// configuration and the environment for visitors, and runs the DCS.
func (t *tour) prepare(ctx context.Context) error {
	// The lab makes patroni.yml and runs etcd; no node starts before its
	// archive_command can work.
	c, err := lab.Prepare(ctx, t.labOptions())
	if err != nil {
		return err
	}
	t.cluster = c
	if err := copyProgram(t.options.tool, t.tool); err != nil {
		return err
	}
	repository, err := c.Folder("repository")
	if err != nil {
		return err
	}
	for _, n := range c.Nodes {
		config := fmt.Sprintf("patroni: %s\nrepository: file://%s\n", n.ConfigFile, repository)
		if err := c.WriteFile(filepath.Join(n.Dir, "pgtender.yml"), []byte(config)); err != nil {
			return err
		}
	}
	var script strings.Builder
	for _, assignment := range t.environ() {
		fmt.Fprintf(&script, "export %s\n", assignment)
	}
	return c.WriteFile(filepath.Join(t.dir, "env.sh"), []byte(script.String()))
}

// environ is what every command of the demo runs with. PGPORT picks the node,
// by -p.
func (t *tour) environ() []string {
	patroni := filepath.Join(servertest.CacheDir(), "patroni", "4.1", "bin")
	path := strings.Join([]string{filepath.Dir(t.tool), t.cluster.BinDir(), patroni, "/usr/local/bin:/usr/bin:/bin"}, ":")
	env := []string{"PATH=" + path, "HOME=" + t.dir, "LANG=C.UTF-8"}
	for _, assignment := range t.cluster.Nodes[0].ClientEnv() {
		if !strings.HasPrefix(assignment, "PGPORT=") {
			env = append(env, assignment)
		}
	}
	return env
}

// show runs a command as the servers' user, prints it and its output as it
// comes, and gives that output.
func (t *tour) show(ctx context.Context, program string, args ...string) (string, error) {
	path := t.tool
	if program != "pgtender" {
		var err error
		if path, err = t.cluster.Program(program); err != nil {
			return "", err
		}
	}
	cmd := t.cluster.Command(ctx, path, args...)
	cmd.Args[0] = program
	cmd.Env = t.environ()
	t.command(cmd.Args...)
	out := t.indented()
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	out.end()
	if err != nil {
		err = fmt.Errorf("%s: %w", quoted(cmd.Args), err)
	}
	return out.all.String(), err
}

// pgtender runs a command of pgtender on a node.
func (t *tour) pgtender(ctx context.Context, n *lab.Node, args ...string) (string, error) {
	return t.show(ctx, "pgtender", append([]string{"-c", n.Name + "/pgtender.yml"}, args...)...)
}

// client runs a client program of PostgreSQL against a node.
func (t *tour) client(ctx context.Context, n *lab.Node, program string, args ...string) (string, error) {
	return t.show(ctx, program, append([]string{"-p", strconv.Itoa(n.Port)}, args...)...)
}

// copyProgram puts the program where the servers' user can run it, which is not
// so for a project below a closed home directory.
func copyProgram(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return os.Chmod(to, 0o755) // whatever the umask
}
