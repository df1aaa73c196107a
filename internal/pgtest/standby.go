package pgtest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/internal/pg/server"
)

// StandbyOf makes a streaming standby of a running server (of a standby, too)
// from a base backup over the replication protocol, and starts it. Of the
// options, Config and TCP count: the rest is the primary's.
func StandbyOf(t testing.TB, primary *Cluster, o Options) *Cluster {
	t.Helper()
	o.Major = primary.Major
	c := newCluster(t, o.withDefaults(), "")
	primary.BaseBackup(t, c.DataDir)
	c.Configure(t, o.Config)
	c.Configure(t, map[string]string{"primary_conninfo": primary.ConnString()})
	c.Append(t, "standby.signal", "")
	c.Start(t)
	return c
}

// BaseBackup copies the running server into dataDir, which must not exist or
// be empty, with the WAL that makes the copy consistent. Tablespaces go beside
// it, into <dataDir>.<oid>.
func (c *Cluster) BaseBackup(t testing.TB, dataDir string) {
	t.Helper()
	conn := c.ConnectReplication(t)
	defer conn.Close()
	b, err := conn.BaseBackup(t.Context(), server.BaseBackupOptions{Label: "pgtest", Fast: true, WAL: true, NoWait: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, ts := range b.Tablespaces {
		if err := os.MkdirAll(tablespaceDir(dataDir, ts), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for {
		a, err := b.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err == nil {
			err = unpack(a, dataDir, tablespaceDir(dataDir, a.Tablespace))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Finish(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, b.Notices())
	}
	for _, ts := range b.Tablespaces {
		Own(t, tablespaceDir(dataDir, ts))
	}
}

func tablespaceDir(dataDir string, ts server.BaseTablespace) string {
	if ts.OID == 0 {
		return dataDir
	}
	return fmt.Sprintf("%s.%d", dataDir, ts.OID)
}

// unpack writes one archive into dir. Links are those of tablespaces, which
// lead beside the data directory.
func unpack(archive io.Reader, dataDir, dir string) error {
	r := tar.NewReader(archive)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("unpack %q: outside of the directory", h.Name)
		}
		path := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o700)
		case tar.TypeSymlink:
			err = os.Symlink(dataDir+"."+filepath.Base(h.Name), path)
		case tar.TypeReg:
			err = writeFile(path, r)
		default:
			err = errors.New("unknown type")
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", h.Name, err)
		}
	}
}

func writeFile(path string, content io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return firstError(err, f.Close())
}
