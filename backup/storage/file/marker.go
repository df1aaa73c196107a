package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgtender/pgtender/backup/storage"
)

// Marker is the name of the file that makes a directory a store. No key can
// have it.
const Marker = "@pgtender-store"

// The marker's first line is its magic and version; the rest is for people.
const (
	markerMagic = "pgtender store "
	markerText  = markerMagic + "1\n" +
		"\n" +
		"This directory is a pgtender repository: backups and WAL of PostgreSQL clusters.\n" +
		"Without this file it is not used any more, which is how an unmounted file\n" +
		"system is told from an empty repository. Change nothing in here by hand.\n"
)

// errNoMarker tells Open that the directory is there and unmarked.
var errNoMarker = fmt.Errorf("%w: no marker file %s", storage.ErrNoStore, Marker)

func (s *Store) markerError(op, key string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return failed(op, key, err)
	}
	return &storage.Error{
		Op: op, Key: key, Err: fmt.Errorf("%w in %s", errNoMarker, s.dir),
		Advice: "is its file system mounted? A new repository begins in an empty directory, with the first backup or archived WAL",
	}
}

// checkMarker reads the marker.
func (s *Store) checkMarker() error {
	r, err := s.openDir("open", "")
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := r.Open(Marker)
	if err != nil {
		return s.markerError("open", "", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return failed("open", "", err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	switch version, ok := strings.CutPrefix(string(line), markerMagic); {
	case !ok:
		return &storage.Error{Op: "open", Err: fmt.Errorf("%s/%s is not a marker of this program", s.dir, Marker), Permanent: true}
	case version != "1":
		return &storage.Error{
			Op: "open", Err: fmt.Errorf("store %s has version %q, this program knows 1", s.dir, version),
			Advice: "use the pgtender release that made it, or a newer one", Permanent: true,
		}
	}
	return nil
}

// create turns an empty directory into a store.
func (s *Store) create(ctx context.Context) error {
	if point, err := s.unmounted(); err != nil {
		return failed("open", "", err)
	} else if point != "" {
		return &storage.Error{
			Op: "open", Err: fmt.Errorf("%w: /etc/fstab has a file system for %s, and none is mounted there", storage.ErrNoStore, point),
			Advice: "mount " + point,
		}
	}
	r, err := s.openDir("open", "")
	if err != nil {
		return err
	}
	defer r.Close()
	foreign, err := foreignEntry(r)
	if err != nil {
		return failed("open", "", err)
	}
	if foreign != "" {
		return &storage.Error{
			Op: "open", Err: fmt.Errorf("%w: %s holds %q and no marker file %s", storage.ErrNoStore, s.dir, foreign, Marker),
			Advice: "a new repository begins in an empty directory", Permanent: true,
		}
	}
	err = s.store(ctx, r, Marker, strings.NewReader(markerText), int64(len(markerText)), storage.PutOptions{IfAbsent: true})
	if err != nil && !errors.Is(err, storage.ErrExists) {
		return fmt.Errorf("make a store of %s: %w", s.dir, err)
	}
	return s.checkMarker() // another process may have been quicker
}

// foreignEntry names something in the directory that an empty file system
// does not have. Snapshot folders are shown by some NFS servers.
func foreignEntry(r *os.Root) (string, error) {
	entries, err := readDir(r, nil)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == "lost+found", name == ".snapshot", name == ".zfs", name == Marker, isTemp(name):
		default:
			return name, nil
		}
	}
	return "", nil
}

// unmounted names a mount point at or above the directory that /etc/fstab
// knows and that has nothing mounted on it, "" if there is none.
func (s *Store) unmounted() (string, error) {
	dir, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		return "", err
	}
	// Where the files are missing (containers, other systems) nothing is known.
	fstab, _ := os.ReadFile("/etc/fstab")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", nil
	}
	return missingMount(dir, string(fstab), string(mounts)), nil
}

// missingMount is unmounted as a function of the files' texts, fstab(5) and
// proc_pid_mountinfo(5): the mount point is the second and the fifth field.
func missingMount(dir, fstab, mountinfo string) string {
	mounted := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 {
			mounted[unescape(f[4])] = true
		}
	}
	for line := range strings.Lines(fstab) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") || !strings.HasPrefix(f[1], "/") {
			continue
		}
		point := filepath.Clean(unescape(f[1]))
		below := dir == point || strings.HasPrefix(dir, point+"/")
		if below && point != "/" && !mounted[point] {
			return point
		}
	}
	return ""
}

// unescape undoes the octal escapes of both files.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\043`, "#", `\134`, `\`).Replace
