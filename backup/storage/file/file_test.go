package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

func TestStore(t *testing.T) {
	storagetest.Run(t, func(t testing.TB) storage.Store { return open(t, t.TempDir()) })
}

func TestADiskIsAskedOnceMoreRatherThanReadForNothing(t *testing.T) {
	near, far := storage.Gap(storagetest.Enforce(t, open(t, t.TempDir()), nil)), storage.Gap(struct{ storage.Store }{})
	if near <= 0 || near >= far {
		t.Errorf("up to %d bytes are read for nothing, of a store over a network %d", near, far)
	}
}

// TestStoreInMemory is on tmpfs, which refused O_DIRECT for long.
func TestStoreInMemory(t *testing.T) {
	const shm = "/dev/shm"
	if _, err := os.Stat(shm); err != nil {
		t.Skip("no tmpfs at " + shm)
	}
	storagetest.Run(t, func(t testing.TB) storage.Store {
		dir, err := os.MkdirTemp(shm, "pgtender-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		return open(t, dir)
	})
}

func open(t testing.TB, dir string) *file.Store {
	t.Helper()
	s, err := file.Open(t.Context(), file.Options{Dir: dir, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t testing.TB, s storage.Store, key, data string) {
	t.Helper()
	if err := storage.PutBytes(t.Context(), s, key, []byte(data), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// keys lists everything, in one string.
func keys(t testing.TB, s storage.Store) string {
	t.Helper()
	var all []string
	for o, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o.Key)
	}
	return strings.Join(all, " ")
}

func TestOpen(t *testing.T) {
	write := func(name, text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name    string
		prepare func(t *testing.T, dir string)
		create  bool
		want    string // part of the error; "" for none
		noStore bool   // it is storage.ErrNoStore
	}{
		{"an empty directory becomes a store", nil, true, "", false},
		{"an empty directory is no store unless told", nil, false, "no marker file", true},
		{"lost+found is as good as empty", func(t *testing.T, dir string) { os.Mkdir(filepath.Join(dir, "lost+found"), 0o700) }, true, "", false},
		{"a killed first use is as good as empty", write(".tmp@0123456789abcdef", "pgten"), true, "", false},
		{"a store is found again", write(file.Marker, "pgtender store 1\nanything\n"), false, "", false},
		{"a directory of other things is refused", write("PG_VERSION", "15"), true, `holds "PG_VERSION"`, true},
		{"a missing directory is refused", func(t *testing.T, dir string) { os.Remove(dir) }, true, "there is no directory", true},
		{"a file is refused", func(t *testing.T, dir string) { os.Remove(dir); os.WriteFile(dir, nil, 0o600) }, true, "there is no directory", true},
		{"a later version is refused", write(file.Marker, "pgtender store 2\n"), true, `version "2"`, false},
		{"a damaged marker is refused", write(file.Marker, "\x00\x00\x00"), true, "not a marker", false},
		{"an empty marker is refused", write(file.Marker, ""), true, "not a marker", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "repository")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if tt.prepare != nil {
				tt.prepare(t, dir)
			}
			s, err := file.Open(t.Context(), file.Options{Dir: dir, Create: tt.create})
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				put(t, s, "k", "x")
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
			if errors.Is(err, storage.ErrNoStore) != tt.noStore || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v: ErrNoStore %v, want %v", err, errors.Is(err, storage.ErrNoStore), tt.noStore)
			}
		})
	}
	t.Run("a relative path is refused", func(t *testing.T) {
		if _, err := file.Open(t.Context(), file.Options{Dir: "repository", Create: true}); err == nil {
			t.Error("accepted")
		}
	})
}

func TestManyFirstUsersMakeOneStore(t *testing.T) {
	dir := t.TempDir()
	errs := make(chan error)
	for range 8 {
		go func() {
			_, err := file.Open(t.Context(), file.Options{Dir: dir, Create: true})
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestUnmounted is an unmount in the life of an open store: its place is taken
// by the empty directory below the mount point, or by nothing.
func TestUnmounted(t *testing.T) {
	for _, left := range []string{"an empty directory", "nothing"} {
		t.Run("it leaves "+left, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "mnt")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir)
			put(t, s, "a/b", "x")
			if err := os.Rename(dir, dir+"-away"); err != nil {
				t.Fatal(err)
			}
			if left == "an empty directory" {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}

			_, getErr := s.Get(t.Context(), "a/b", 0, -1)
			_, absentErr := s.Get(t.Context(), "other", 0, -1)
			var listErr error
			for _, listErr = range s.List(t.Context(), "", "") {
			}
			_, probeErr := s.ConditionalPut(t.Context())
			_, sweepErr := s.Sweep(t.Context(), time.Hour)
			for verb, err := range map[string]error{
				"get": getErr, "get of an absent object": absentErr, "list": listErr,
				"put":         storage.PutBytes(t.Context(), s, "c", nil, storage.PutOptions{}),
				"put, absent": storage.PutBytes(t.Context(), s, "c", nil, storage.PutOptions{IfAbsent: true}),
				"delete":      s.Delete(t.Context(), "a/b"),
				"probe":       probeErr, "sweep": sweepErr,
			} {
				if !errors.Is(err, storage.ErrNoStore) || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v, want ErrNoStore", verb, err)
				}
				if hint, ok := errors.AsType[interface {
					error
					Hint() string
				}](err); !ok || !strings.Contains(hint.Hint(), "mount") {
					t.Errorf("%s: %v has no hint", verb, err)
				}
			}
			if entries, _ := os.ReadDir(dir); len(entries) > 0 {
				t.Errorf("%v was written below the mount point", entries)
			}

			os.Remove(dir)
			if err := os.Rename(dir+"-away", dir); err != nil {
				t.Fatal(err)
			}
			if got, err := storage.ReadAll(t.Context(), s, "a/b", 10); err != nil || string(got) != "x" {
				t.Errorf("mounted again: %q, %v", got, err)
			}
		})
	}
}

func TestModesAreSetWhateverTheUmask(t *testing.T) {
	if os.Getenv("PGTENDER_TEST_UMASK") == "" {
		// The umask belongs to the process, so this needs one of its own.
		cmd := exec.Command(os.Args[0], "-test.run=^TestModesAreSetWhateverTheUmask$", "-test.v")
		cmd.Env = append(os.Environ(), "PGTENDER_TEST_UMASK=077")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	syscall.Umask(0o077)
	const setgid = fs.ModeSetgid
	tests := []struct {
		name      string
		opts      file.Options
		root      fs.FileMode
		dir, file fs.FileMode
	}{
		{"by default", file.Options{}, 0o755, fs.ModeDir | 0o750, 0o640},
		{"for a group", file.Options{DirMode: 0o770, FileMode: 0o660}, 0o770 | setgid, fs.ModeDir | setgid | 0o770, 0o660},
	}
	for _, tt := range tests {
		dir := t.TempDir()
		if err := os.Chmod(dir, tt.root); err != nil {
			t.Fatal(err)
		}
		tt.opts.Dir, tt.opts.Create = dir, true
		s, err := file.Open(t.Context(), tt.opts)
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, "a/b/c", "x")
		got := map[string]fs.FileMode{}
		for _, name := range []string{file.Marker, "a", "a/b", "a/b/c"} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			got[name] = info.Mode()
		}
		want := map[string]fs.FileMode{file.Marker: tt.file, "a": tt.dir, "a/b": tt.dir, "a/b/c": tt.file}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// tree gives all names below dir.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, name); rel != "." && rel != file.Marker {
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

func TestNothingIsLeftBehind(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancelling := readerAt(func(p []byte, _ int64) (int, error) { cancel(); return len(p), nil })
	failing := readerAt(func([]byte, int64) (int, error) { return 0, errors.New("bad sector") })

	put(t, s, "a/b/c", "x")
	s.Put(ctx, "d/e", cancelling, 5<<20, storage.PutOptions{})
	s.Put(t.Context(), "d/f", failing, 5<<20, storage.PutOptions{})
	s.Put(t.Context(), "d/g", failing, 5, storage.PutOptions{})
	storage.PutBytes(t.Context(), s, "a/b/c", []byte("y"), storage.PutOptions{IfAbsent: true})
	storage.PutBytes(t.Context(), s, "a/b", []byte("y"), storage.PutOptions{})
	storage.PutBytes(t.Context(), s, "a/b/c/d", []byte("y"), storage.PutOptions{})
	if atomic, err := s.ConditionalPut(t.Context()); !atomic || err != nil {
		t.Errorf("ConditionalPut: %v, %v", atomic, err)
	}
	if got := tree(t, dir); got != "a a/b a/b/c d" {
		t.Errorf("after failed puts: %q", got)
	}
	if err := s.Delete(t.Context(), "a/b/c"); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, dir); got != "d" {
		t.Errorf("after the delete: %q", got)
	}
}

type readerAt func(p []byte, off int64) (int, error)

func (f readerAt) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

func TestForeignFilesAreNotListed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a/k", "x")
	for _, name := range []string{"a/.tmp@0011", "a/has space", "a/ä"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("k", filepath.Join(dir, "a/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "etc")); err != nil {
		t.Fatal(err)
	}
	if got := keys(t, s); got != "a/k" {
		t.Errorf("listed: %q", got)
	}
	if _, err := s.Get(t.Context(), "etc/passwd", 0, -1); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get through a link out of the store: %v, want a refusal", err)
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a/k", "x")
	old := time.Now().Add(-3 * time.Hour)
	for _, name := range []string{"a/.tmp@old", ".tmp@old", "a/.tmp@new", "empty/old/.", "empty/new/."} {
		name = filepath.Join(dir, name[:strings.LastIndex(name, "/")+1], strings.TrimSuffix(filepath.Base(name), "."))
		var err error
		if strings.Contains(name, "tmp@") {
			err = os.WriteFile(name, []byte("x"), 0o600)
		} else {
			err = os.MkdirAll(name, 0o700)
		}
		if err == nil && strings.HasSuffix(name, "old") {
			err = os.Chtimes(name, old, old)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(filepath.Join(dir, "a/k"), old, old); err != nil {
		t.Fatal(err)
	}
	n, err := s.Sweep(t.Context(), 2*time.Hour)
	if n != 2 || err != nil {
		t.Errorf("%d removed, %v", n, err)
	}
	if got := tree(t, dir); got != "a a/.tmp@new a/k empty empty/new" {
		t.Errorf("left: %q", got)
	}
}

// TestPutsBesideDeletes makes and removes the same folders all the time.
func TestPutsBesideDeletes(t *testing.T) {
	s := open(t, t.TempDir())
	errs := make(chan error)
	for i := range 4 {
		go func() {
			key := "a/b/c/" + string(rune('a'+i))
			for range 15 {
				if err := storage.PutBytes(t.Context(), s, key, []byte(key), storage.PutOptions{IfAbsent: true}); err != nil {
					errs <- err
					return
				}
				if _, err := storage.ReadAll(t.Context(), s, key, 100); err != nil {
					errs <- err
					return
				}
				if err := s.Delete(t.Context(), key); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestObjectCutShortWhileItIsRead(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "k", strings.Repeat("x", 10_000))
	r, err := s.Get(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := os.Truncate(filepath.Join(dir, "k"), 5000); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); n != 5000 || !errors.Is(err, storage.ErrShort) {
		t.Errorf("%d bytes, %v; want ErrShort", n, err)
	}
}

func TestSizesAroundTheAlignmentOfDirectWrites(t *testing.T) {
	dir := t.TempDir()
	for _, buffered := range []bool{false, true} {
		s, err := file.Open(t.Context(), file.Options{Dir: dir, Create: true, Buffered: buffered})
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1 << 20, 1<<20 + 1, 1<<20 + 4095, 1<<20 + 4096, 4<<20 - 1, 4 << 20, 4<<20 + 1, 8<<20 + 4096} {
			data := bytes.Repeat([]byte("0123456789abc"), size/13+1)[:size]
			if err := storage.PutBytes(t.Context(), s, "k", data, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			if same, err := storage.Same(t.Context(), s, "k", bytes.NewReader(data), int64(size)); !same || err != nil {
				t.Errorf("%d bytes, buffered %v: same %v, %v", size, buffered, same, err)
			}
		}
	}
}

func BenchmarkPut32MiB(b *testing.B) {
	data := bytes.Repeat([]byte("0123456789abc"), (32<<20)/13+1)[:32<<20]
	for name, buffered := range map[string]bool{"direct": false, "buffered": true} {
		b.Run(name, func(b *testing.B) {
			s, err := file.Open(b.Context(), file.Options{Dir: b.TempDir(), Create: true, Buffered: buffered})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if err := storage.PutBytes(b.Context(), s, "packs/one", data, storage.PutOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPutSmall(b *testing.B) {
	s := open(b, b.TempDir())
	for b.Loop() {
		put(b, s, "a/b/c/d/e", "x")
	}
}

// A command typed by root must not leave a repository that the servers' user can
// no longer read or write.
func TestWhatRootMakesBelongsToTheOwnerOfTheDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make files that are another user's")
	}
	const uid, gid = 65533, 65532
	dir := t.TempDir()
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	s, err := file.Open(t.Context(), file.Options{Dir: dir, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, opts := range []storage.PutOptions{{}, {IfAbsent: true}} {
		key := fmt.Sprintf("main/1/absent-%v/object", opts.IfAbsent)
		if err := s.Put(t.Context(), key, strings.NewReader("x"), 1, opts); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != uid || st.Gid != gid {
			t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
		}
		seen++
		return nil
	})
	if err != nil || seen != 8 {
		t.Errorf("%d files and folders, %v", seen, err)
	}
}
