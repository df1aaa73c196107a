package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// reads notes which files of users' tables and indexes in one data directory
// anybody reads from disk, by inotify(7): a backup, but PostgreSQL itself as well.
type reads struct {
	files []string // all there were at the start, relative to the data directory

	fd   int
	dirs map[int32]string // by watch descriptor
	stop chan struct{}
	done sync.WaitGroup

	// Set by the reader, to be looked at once it is done.
	read map[string]bool
	err  error
}

// relationFile matches the names of files that hold pages of tables and indexes
// (PostgreSQL's relpath.c): 16384, 16384.1, 16384_vm.
var relationFile = regexp.MustCompile(`^([0-9]+)(_(fsm|vm|init))?(\.[0-9]+)?$`)

// isUsers tells whether a file belongs to a user's table or index. The system
// catalogs have smaller numbers (FirstNormalObjectId in transam.h) unless they
// were rewritten, which the demo does not; they are left out because PostgreSQL
// reads some of their pages whenever somebody connects.
func isUsers(file string) bool {
	found := relationFile.FindStringSubmatch(filepath.Base(file))
	if found == nil {
		return false
	}
	number, err := strconv.ParseUint(found[1], 10, 32)
	return err == nil && number >= 16384
}

// watchReads begins to watch.
func watchReads(dataDir string) (*reads, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dataDir, err)
	}
	r := &reads{fd: fd, dirs: map[int32]string{}, stop: make(chan struct{}), read: map[string]bool{}}
	if err := r.add(dataDir); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch %s: %w", dataDir, err)
	}
	if len(r.files) == 0 {
		unix.Close(fd)
		return nil, fmt.Errorf("watch %s: no tables there", dataDir)
	}
	r.done.Go(r.follow)
	return r, nil
}

// add watches every folder with users' relations, and lists their files.
func (r *reads) add(dataDir string) error {
	return filepath.WalkDir(dataDir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // dropped under our eyes
		} else if err != nil {
			return err
		}
		rel, err := filepath.Rel(dataDir, path)
		if err != nil {
			return err
		}
		if parent := filepath.Dir(rel); !d.IsDir() {
			info, err := d.Info()
			if isUsers(rel) && holdsRelations(parent) && err == nil && info.Size() > 0 {
				r.files = append(r.files, rel)
			}
			return nil
		}
		if !holdsRelations(rel) {
			return nil
		}
		watch, err := unix.InotifyAddWatch(r.fd, path, unix.IN_ACCESS)
		if err != nil {
			return os.NewSyscallError("inotify_add_watch", err)
		}
		r.dirs[int32(watch)] = rel
		return nil
	})
}

// holdsRelations: a user's relation is in global never, and in a tablespace's
// folder not in the demo.
func holdsRelations(dir string) bool { return filepath.Dir(dir) == "base" }

// follow takes events until it is told to stop and none is left.
func (r *reads) follow() {
	buf := make([]byte, 64<<10)
	stopping := false
	for {
		n, err := unix.Read(r.fd, buf)
		switch {
		case n > 0:
			if r.err = r.take(buf[:n]); r.err != nil {
				return
			}
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EAGAIN):
			r.err = os.NewSyscallError("read", err)
			return
		case stopping:
			return
		default:
			// Look for the end now and then.
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}, 50); err != nil && !errors.Is(err, unix.EINTR) {
				r.err = os.NewSyscallError("poll", err)
				return
			}
			select {
			case <-r.stop:
				stopping = true
			default:
			}
		}
	}
}

// take notes the files that events are about.
func (r *reads) take(events []byte) error {
	for len(events) >= unix.SizeofInotifyEvent {
		watch := int32(binary.NativeEndian.Uint32(events))
		mask := binary.NativeEndian.Uint32(events[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		if mask&unix.IN_Q_OVERFLOW != 0 {
			return errors.New("too many reads at once to note them all")
		}
		name := string(bytes.TrimRight(events[unix.SizeofInotifyEvent:end], "\x00"))
		if isUsers(name) {
			r.read[filepath.Join(r.dirs[watch], name)] = true
		}
		events = events[end:]
	}
	return nil
}

// end stops watching and gives the files that were read, of those that were
// there at the start.
func (r *reads) end() ([]string, error) {
	close(r.stop)
	r.done.Wait()
	unix.Close(r.fd)
	var found []string
	for _, file := range r.files {
		if r.read[file] {
			found = append(found, file)
		}
	}
	return found, r.err
}
