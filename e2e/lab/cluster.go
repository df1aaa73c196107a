package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/pgtender/pgtender/internal/servertest"
)

// Cluster is a running lab.
type Cluster struct {
	Dir   string
	Scope string
	Major int // PostgreSQL's
	DCS   *DCS
	Nodes []*Node // pg1, pg2 ...

	options  Options // with the defaults filled in
	programs programs
	account  *syscall.Credential // nil: as ourselves
	bin      string              // Patroni's bin_dir
	ports    servertest.Ports
	http     *http.Client
}

// New runs a cluster and returns when every node streams from the leader and,
// in synchronous mode, a synchronous standby is known. On error nothing is left
// running; the folder stays, for its logs.
func New(ctx context.Context, o Options) (*Cluster, error) {
	c, err := Prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := c.Up(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Prepare makes the folder with all configurations and runs the DCS, but no
// node yet: that is Up, or the nodes' own Start.
func Prepare(ctx context.Context, o Options) (*Cluster, error) {
	c := &Cluster{programs: programs{servertest.CacheDir()}, http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	err := c.prepare(ctx, o)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) prepare(ctx context.Context, o Options) (err error) {
	if c.options, err = o.withDefaults(c.programs); err != nil {
		return err
	}
	c.Dir, c.Scope, c.Major = c.options.Dir, c.options.Scope, c.options.Major
	if c.account, err = servertest.Account(); err != nil {
		return &NotInstalledError{"postgres", err}
	}
	if err := c.ownDir(c.Dir); err != nil {
		return err
	}
	if err := c.checkEnter(); err != nil {
		return err
	}
	if c.bin, err = c.programs.serverBin(c.Major, filepath.Join(c.Dir, "bin")); err != nil {
		return err
	}
	if c.DCS, err = c.newDCS(); err != nil {
		return err
	}
	for i := range c.options.Nodes {
		if err := c.addNode(fmt.Sprintf("pg%d", i+1)); err != nil {
			return err
		}
	}
	return c.DCS.Start(ctx)
}

// checkEnter makes sure that the servers' user can reach the folders.
func (c *Cluster) checkEnter() error {
	if c.account == nil {
		return nil
	}
	for _, dir := range []string{c.Dir, c.programs.cache} {
		probe := exec.Command("/bin/true")
		probe.Dir = dir
		probe.SysProcAttr = &syscall.SysProcAttr{Credential: c.account}
		if err := probe.Run(); err != nil {
			return fmt.Errorf("the postgres user cannot enter %s: %w\nhint: choose another folder (PGTENDER_CACHE for the cache), or open those above it (chmod o+x)", dir, err)
		}
	}
	return nil
}

// Folder makes a folder below Dir that belongs to the servers' user: for a
// repository, a configuration.
func (c *Cluster) Folder(name string) (string, error) {
	dir := filepath.Join(c.Dir, name)
	return dir, c.ownDir(dir)
}

// WriteFile writes a file that belongs to the servers' user, readable by it
// alone, whatever the umask.
func (c *Cluster) WriteFile(path string, content []byte) error {
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	return c.own(path)
}

// Command prepares a program to run as the servers' user, as cron on a node
// would: in Dir, with next to nothing in its environment.
func (c *Cluster) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = c.Dir
	cmd.Env = []string{"HOME=" + c.Dir, "LANG=C.UTF-8", "PATH=" + c.bin + ":/usr/local/bin:/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.account}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// BinDir is PostgreSQL's bin_dir in patroni.yml.
func (c *Cluster) BinDir() string { return c.bin }

// Program gives the path of a client program of the distribution's PostgreSQL.
func (c *Cluster) Program(name string) (string, error) { return c.programs.client(name) }

// ownDir makes a folder that belongs to the servers' user.
func (c *Cluster) ownDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return c.own(dir)
}

func (c *Cluster) own(path string) error {
	if c.account == nil {
		return nil
	}
	return os.Chown(path, int(c.account.Uid), int(c.account.Gid))
}

func (c *Cluster) takePorts(count int) ([]int, error) {
	var taken []int
	for range count {
		port, err := c.ports.Take()
		if err != nil {
			return nil, err
		}
		taken = append(taken, port)
	}
	return taken, nil
}

func (c *Cluster) canRewind() bool {
	_, err := os.Stat(filepath.Join(c.bin, "pg_rewind"))
	return err == nil
}

// AddNode adds one more node to a prepared or running cluster, as pg<number>,
// without starting it.
func (c *Cluster) AddNode() (*Node, error) {
	if err := c.addNode(fmt.Sprintf("pg%d", len(c.Nodes)+1)); err != nil {
		return nil, err
	}
	return c.Nodes[len(c.Nodes)-1], nil
}

func (c *Cluster) addNode(name string) error {
	ports, err := c.takePorts(2)
	if err != nil {
		return err
	}
	dir := filepath.Join(c.Dir, name)
	n := &Node{
		Name: name, Dir: dir, DataDir: filepath.Join(dir, "data"),
		ConfigFile: filepath.Join(dir, "patroni.yml"), LogFile: filepath.Join(c.Dir, name+".log"),
		Port: ports[0], RESTPort: ports[1], cluster: c,
	}
	n.config = &NodeConfig{Node: n, DCSAddress: c.DCS.Address}
	if err := c.ownDir(dir); err != nil {
		return err
	}
	if c.options.Configure != nil {
		c.options.Configure(n.config)
	}
	if err := n.WriteConfig(nil); err != nil {
		return err
	}
	c.Nodes = append(c.Nodes, n)
	return nil
}

// Up starts every node that is not running: the first alone, so that it makes
// the cluster, and the others once it leads. It returns when all stream and the
// DCS knows where each of them is.
func (c *Cluster) Up(ctx context.Context) error {
	for i, n := range c.Nodes {
		if err := n.Start(ctx); err != nil {
			return err
		}
		if i == 0 {
			if _, err := c.WaitLeader(ctx); err != nil {
				return err
			}
		}
	}
	if err := c.WaitStreaming(ctx, len(c.Nodes)-1); err != nil {
		return err
	}
	if c.options.Synchronous != "off" && len(c.Nodes) > 1 {
		if _, err := c.WaitSyncStandby(ctx); err != nil {
			return err
		}
	}
	return c.waitKnown(ctx)
}

// Node gives a node by its name, nil if there is none.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Close ends all that the lab started. The folder stays.
func (c *Cluster) Close() error {
	var wait sync.WaitGroup
	for _, n := range c.Nodes {
		wait.Go(n.discard)
	}
	wait.Wait()
	if c.DCS != nil {
		c.DCS.Kill()
	}
	c.ports.Release()
	return nil
}

// permanent marks an error that no further try mends.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// pollInterval is how often a state that is waited for is looked at.
const pollInterval = 200 * time.Millisecond

// poll tries until there is no error, a permanent one, or the context's end; the
// last error then says what was still amiss.
func poll(ctx context.Context, what string, try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if errors.As(err, new(permanent)) {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; at last: %w", what, context.Cause(ctx), err)
		case <-time.After(pollInterval):
		}
	}
}
