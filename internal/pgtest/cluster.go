package pgtest

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/servertest"
)

// Options says what server to run. The zero value is a small [DefaultMajor]
// without checksums that is reached through a socket only.
type Options struct {
	Major      int
	Checksums  bool              // page checksums, as initdb -k
	WALSegSize int               // in MiB: 1 to 1024, a power of two; 16 if 0
	Config     map[string]string // settings, over the ones of this package
	TCP        bool              // listen on 127.0.0.1 too
}

func (o Options) withDefaults() Options {
	o.Major = cmp.Or(o.Major, DefaultMajor)
	o.WALSegSize = cmp.Or(o.WALSegSize, 16)
	return o
}

// Cluster is one data directory and its server. It is not safe for concurrent
// Start, Stop, Crash and Promote; SQL may be run concurrently.
type Cluster struct {
	Major   int
	BinDir  string
	DataDir string
	Host    string // directory of the socket
	Port    int
	TCP     bool // listens on 127.0.0.1:Port too

	dir    string            // holds the socket and the log
	config map[string]string // given on the command line, over what the files say
	proc   *process          // nil while stopped
}

// New makes a cluster as initdb does, with a system identifier of its own, and
// starts it.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	skipShort(t)
	o = o.withDefaults()
	c := newCluster(t, o, "")
	newDataDir(t, o, c.DataDir)
	c.Configure(t, baseConfig)
	c.Configure(t, o.Config)
	c.Start(t)
	return c
}

// Adopt takes over a data directory, such as a restored one, without starting
// its server. The directory is given to the servers' user; o.Config goes on
// the command line, so that no file of the directory is changed.
func Adopt(t testing.TB, dataDir string, o Options) *Cluster {
	t.Helper()
	skipShort(t)
	Own(t, dataDir)
	c := newCluster(t, o.withDefaults(), dataDir)
	maps.Copy(c.config, o.Config)
	return c
}

func skipShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a PostgreSQL server")
	}
}

func newCluster(t testing.TB, o Options, dataDir string) *Cluster {
	t.Helper()
	dir := Dir(t)
	c := &Cluster{
		Major: o.Major, BinDir: BinDir(t, o.Major), DataDir: cmp.Or(dataDir, filepath.Join(dir, "data")),
		Host: dir, Port: 5432, TCP: o.TCP, dir: dir, config: map[string]string{},
	}
	listen := ""
	if o.TCP {
		_, port, err := net.SplitHostPort(servertest.FreeAddress(t))
		if err == nil {
			c.Port, err = strconv.Atoi(port)
		}
		if err != nil {
			t.Fatal(err)
		}
		listen = "127.0.0.1"
	}
	// What differs between two copies of one directory.
	c.config["listen_addresses"] = listen
	c.config["port"] = strconv.Itoa(c.Port)
	c.config["unix_socket_directories"] = dir
	t.Cleanup(func() {
		c.discard()
		if t.Failed() {
			t.Logf("log of PostgreSQL %d in %s:\n%s", c.Major, c.DataDir, tail(c.Log(), 50))
		}
	})
	return c
}

// baseConfig makes a small server that starts fast. Killed servers keep what
// they wrote, for the page cache lives on, so fsync is of no use here.
var baseConfig = map[string]string{
	"fsync":               "off",
	"shared_buffers":      "16MB",
	"max_connections":     "50",
	"wal_level":           "replica",
	"hot_standby":         "on",
	"jit":                 "off",
	"log_timezone":        "UTC",
	"timezone":            "UTC",
	"log_line_prefix":     "%m [%p] %b ",
	"log_checkpoints":     "on",
	"wal_keep_size":       "64MB",
	"max_wal_senders":     "10",
	"restart_after_crash": "off",
}

// Configure appends settings to postgresql.conf. They take effect at the next
// Start or Reload.
func (c *Cluster) Configure(t testing.TB, settings map[string]string) {
	t.Helper()
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", k, strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(settings[k]))
	}
	c.Append(t, "postgresql.conf", b.String())
}

// Append adds text to a file of the data directory, which it makes if needed.
func (c *Cluster) Append(t testing.TB, name, text string) {
	t.Helper()
	path := filepath.Join(c.DataDir, name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(text)
	if err = firstError(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	Own(t, path)
}

// Options gives what internal/pg/server needs to reach the server, as superuser.
func (c *Cluster) Options() server.Options {
	return server.Options{Host: c.Host, Port: uint16(c.Port), User: "postgres", SSLMode: "disable", ConnectTimeout: 10 * time.Second}
}

// ConnString gives a libpq connection string, without a database name, that
// serves as primary_conninfo too.
func (c *Cluster) ConnString() string {
	return fmt.Sprintf("host=%s port=%d user=postgres", c.Host, c.Port)
}

// Log gives the server's log since the cluster was made.
func (c *Cluster) Log() string {
	b, err := os.ReadFile(c.logPath())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (c *Cluster) logPath() string { return filepath.Join(c.dir, "log") }

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
