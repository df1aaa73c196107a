package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChooseResolvesGroupsInInstallationOrder(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"a component", []string{"consul"}, []string{"consul"}},
		{"a group", []string{"demo"}, []string{"postgres", "patroni-4.1", "etcd"}},
		{"a group and one of its members", []string{"etcd", "demo"}, []string{"postgres", "patroni-4.1", "etcd"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			chosen, err := choose(tt.args)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, names(chosen)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestChooseRefusesAnUnknownName(t *testing.T) {
	if _, err := choose([]string{"etcd", "etc"}); err == nil || !strings.Contains(err.Error(), `"etc"`) {
		t.Errorf("choose says %v, want an error about etc", err)
	}
}

func TestEveryGroupHoldsComponentsOnly(t *testing.T) {
	for _, g := range groups {
		chosen, err := choose(g.members)
		if err != nil || len(chosen) != len(g.members) {
			t.Errorf("group %s: %d of %d components, %v", g.name, len(chosen), len(g.members), err)
		}
	}
	if all, _ := choose([]string{defaultGroup}); slices.Contains(names(all), "minio") {
		t.Error("minio is built unasked")
	}
}

// fake is a component that counts its installations.
func fake(pin *string, installed *int) component {
	return component{
		name: "fake", program: filepath.Join("bin", "fake"),
		pin: func(*machine) string { return *pin },
		install: func(_ context.Context, m *machine) error {
			*installed++
			if err := os.MkdirAll(filepath.Join(m.cache, "bin"), 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(m.cache, "bin", "fake"), nil, 0o755)
		},
	}
}

func TestAComponentIsReadyOnlyIfWholeAndAsPinned(t *testing.T) {
	m := &machine{cache: t.TempDir()}
	pin, installed := "1", 0
	c := fake(&pin, &installed)
	if m.ready(c) {
		t.Error("ready before it was installed")
	}
	if err := c.install(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if m.ready(c) {
		t.Error("ready without its stamp: an interrupted installation counts")
	}
	if err := m.stamp(c); err != nil {
		t.Fatal(err)
	}
	if !m.ready(c) {
		t.Error("not ready after installation")
	}
	pin = "2"
	if m.ready(c) {
		t.Error("ready in another version than the pinned one")
	}
	pin = "1"
	if err := os.Remove(filepath.Join(m.cache, c.program)); err != nil {
		t.Fatal(err)
	}
	if m.ready(c) {
		t.Error("ready though its program is gone")
	}
	if err := m.stamp(c); err == nil {
		t.Error("stamped without its program")
	}
}

func TestTwoRunsDoNotOverlap(t *testing.T) {
	m := &machine{cache: t.TempDir(), out: &bytes.Buffer{}}
	unlock, err := m.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.lock(ctx); err == nil {
		t.Error("the lock was given twice")
	}
	unlock()
	again, err := m.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// npmArchive builds an archive as npm does, and gives its path and digest.
func npmArchive(t *testing.T, files map[string]string) (path, digest string) {
	t.Helper()
	var content bytes.Buffer
	zipped := gzip.NewWriter(&content)
	archive := tar.NewWriter(zipped)
	for name, text := range files {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o700, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "package.tgz")
	if err := os.WriteFile(path, content.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(content.Bytes())
	return path, base64.StdEncoding.EncodeToString(sum[:])
}

func TestUnpackMakesAProgramThatOthersCanRun(t *testing.T) {
	archive, digest := npmArchive(t, map[string]string{
		"package/native/lib/libpq.so.5.18":  "library",
		"package/native/bin/postgres":       "program",
		"package/native/pg-symlinks.json":   `[{"source":"native/lib/libpq.so.5.18","target":"native/lib/libpq.so.5"}]`,
		"package/native/share/zone/Etc/UTC": "zone",
	})
	dir := filepath.Join(t.TempDir(), "package")
	if err := unpack(archive, digest, dir); err != nil {
		t.Fatal(err)
	}
	if err := restoreLinks(dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "native", "bin", "postgres"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("postgres has mode %v, %v; want 755", info.Mode(), err)
	}
	if content, err := os.ReadFile(filepath.Join(dir, "native", "lib", "libpq.so.5")); string(content) != "library" {
		t.Errorf("the library's link reads %q, %v", content, err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	good, goodDigest := npmArchive(t, map[string]string{"package/a": "a"})
	out, outDigest := npmArchive(t, map[string]string{"package/../../b": "b"})
	for _, tt := range []struct{ name, archive, digest string }{
		{"another digest than the pinned one", good, outDigest},
		{"a name that leads out of the folder", out, outDigest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := t.TempDir()
			if err := unpack(tt.archive, tt.digest, filepath.Join(parent, "package")); err == nil {
				t.Error("unpacked")
			}
			if found, _ := filepath.Glob(filepath.Join(parent, "b")); len(found) > 0 {
				t.Errorf("wrote %v", found)
			}
		})
	}
	if err := unpack(good, goodDigest, filepath.Join(t.TempDir(), "package")); err != nil {
		t.Errorf("the good archive: %v", err)
	}
}

func TestRunAsksBeforeItInstalls(t *testing.T) {
	t.Setenv("PGTENDER_CACHE", t.TempDir())
	noTerminal, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer noTerminal.Close()
	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"etcd"}, noTerminal, &out, &errOut); code != 2 {
		t.Errorf("exit code %d without an answer, want 2", code)
	}
	if !strings.Contains(out.String(), "etcd, built from source") || !strings.Contains(errOut.String(), "--yes") {
		t.Errorf("it says %q and %q", out.String(), errOut.String())
	}
	if entries, _ := os.ReadDir(os.Getenv("PGTENDER_CACHE")); len(entries) > 0 {
		t.Errorf("the cache folder holds %v", entries)
	}
}
