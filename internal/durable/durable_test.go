package durable_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/durable"
)

// recorder notes the steps and fails one of them.
type recorder struct {
	mu    sync.Mutex
	steps []string
	fail  string
}

var errFault = errors.New("disk on fire")

func (r *recorder) fs() durable.FS {
	return durable.FS{Fault: func(step, path string) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.steps = append(r.steps, step+" "+filepath.Base(path))
		if step == r.fail {
			return errFault
		}
		return nil
	}}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func content(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWriteFileReplacesAFileWithExactlyItsMode(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	name := filepath.Join(t.TempDir(), "f")
	for _, want := range []struct {
		text string
		mode fs.FileMode
	}{{"one", 0o644}, {"two", 0o600}, {"", 0o440}, {"three", 0o666}} {
		if err := (durable.FS{}).WriteFile(name, []byte(want.text), want.mode); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want.mode || content(t, name) != want.text {
			t.Errorf("%q with mode %s, want %q with %s", content(t, name), info.Mode(), want.text, want.mode)
		}
	}
	if got := list(t, filepath.Dir(name)); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
}

func TestWriteFileSyncsBeforeItRenames(t *testing.T) {
	r := &recorder{}
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.fs().WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range r.steps {
		step, name, _ := strings.Cut(s, " ")
		if durable.IsTemp(name) {
			name = "temp"
		}
		got = append(got, step+" "+name)
	}
	want := []string{"create f", "write temp", "chmod temp", "sync temp", "close temp", "rename f", "syncdir dir"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAFailedWriteLeavesOldOrNewAndNoRubbish(t *testing.T) {
	for _, step := range []string{"create", "write", "chmod", "sync", "close", "rename", "syncdir"} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			name := filepath.Join(dir, "f")
			if err := os.WriteFile(name, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			err := (&recorder{fail: step}).fs().WriteFile(name, []byte("new"), 0o600)
			if !errors.Is(err, errFault) || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v", err)
			}
			want := "old"
			if step == "syncdir" { // done, but perhaps not for good
				want = "new"
			}
			if got := content(t, name); got != want {
				t.Errorf("the file holds %q, want %q", got, want)
			}
			if diff := cmp.Diff([]string{"f"}, list(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAFailedReaderLeavesTheTarget(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	r := io.MultiReader(strings.NewReader("half"), errReader{})
	if err := (durable.FS{}).WriteFrom(name, r, 0o600); !errors.Is(err, errFault) {
		t.Errorf("got %v", err)
	}
	if got := list(t, filepath.Dir(name)); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errFault }

func TestWriteFileInTheWorkingDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := (durable.FS{}).WriteFile("f", []byte("x"), 0o600); err != nil || content(t, "f") != "x" {
		t.Error(err)
	}
}

func TestMkdirAllSyncsEveryParentThatGotAnEntry(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	root := t.TempDir()
	r := &recorder{}
	if err := r.fs().MkdirAll(filepath.Join(root, "a/b/c"), 0o750); err != nil {
		t.Fatal(err)
	}
	base := filepath.Base(root)
	want := []string{"mkdir a", "syncdir " + base, "mkdir b", "syncdir a", "mkdir c", "syncdir b"}
	if diff := cmp.Diff(want, r.steps); diff != "" {
		t.Error(diff)
	}
	for _, dir := range []string{"a", "a/b", "a/b/c"} {
		if info, err := os.Stat(filepath.Join(root, dir)); err != nil || info.Mode() != fs.ModeDir|0o750 {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
	again := &recorder{}
	if err := again.fs().MkdirAll(filepath.Join(root, "a/b"), 0o700); err != nil || len(again.steps) != 0 {
		t.Errorf("of what is there: %v, %v", again.steps, err)
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"file", "file/x"} {
		if err := (durable.FS{}).MkdirAll(filepath.Join(root, bad), 0o700); err == nil {
			t.Errorf("%s is made", bad)
		}
	}
	for _, step := range []string{"mkdir", "syncdir"} {
		if err := (&recorder{fail: step}).fs().MkdirAll(filepath.Join(root, step, "x"), 0o700); !errors.Is(err, errFault) {
			t.Errorf("%s: got %v", step, err)
		}
	}
}

func TestRenameSyncsBothDirectoriesTheNewOneFirst(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"from", "to"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	from, to := filepath.Join(root, "from/f"), filepath.Join(root, "to/g")
	if err := os.WriteFile(from, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	if err := r.fs().Rename(from, to); err != nil || content(t, to) != "x" {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"rename g", "syncdir to", "syncdir from"}, r.steps); diff != "" {
		t.Error(diff)
	}
	r = &recorder{}
	if err := r.fs().Rename(to, filepath.Join(root, "to/h")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"rename h", "syncdir to"}, r.steps); diff != "" {
		t.Error(diff)
	}
}

func TestRemove(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&recorder{fail: "syncdir"}).fs().Remove(name); !errors.Is(err, errFault) {
		t.Errorf("a lost sync: got %v", err)
	}
	if err := (durable.FS{}).Remove(name); err != nil {
		t.Errorf("of what is not there: %v", err)
	}
}

func TestRemoveContentsKeepsTheDirectoryAndWhatLinksLeadTo(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "dir")
	err := errors.Join(os.MkdirAll(filepath.Join(dir, "a/b"), 0o700), os.MkdirAll(filepath.Join(dir, "keep/x"), 0o700),
		os.WriteFile(filepath.Join(dir, "f"), nil, 0o600), os.Symlink(outside, filepath.Join(dir, "link")), os.Chmod(dir, 0o750))
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	if err := r.fs().RemoveContents(dir, "keep"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"keep"}, list(t, dir)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"remove a", "remove f", "remove link", "syncdir dir"}, r.steps); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode() != fs.ModeDir|0o750 {
		t.Errorf("the directory: %v, %v", info, err)
	}
	if got := list(t, outside); len(got) != 1 {
		t.Error("what the link leads to is gone")
	}
	if err := (durable.FS{}).RemoveContents(filepath.Join(root, "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no directory: %v", err)
	}
}

func TestSyncTreeReachesEverythingOnce(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	want := []string{"syncdir " + filepath.Base(root)}
	for i := range 5 {
		dir := fmt.Sprintf("d%d", i)
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		want = append(want, "syncdir "+dir)
		for k := range 5 {
			f := fmt.Sprintf("f%d%d", i, k)
			if err := os.WriteFile(filepath.Join(root, dir, f), nil, 0o400); err != nil {
				t.Fatal(err)
			}
			want = append(want, "sync "+f)
		}
	}
	err := errors.Join(os.WriteFile(filepath.Join(outside, "x"), nil, 0o600), os.Symlink(outside, filepath.Join(root, "link")),
		syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600), os.Symlink(root, filepath.Join(outside, "root")))
	if err != nil {
		t.Fatal(err)
	}
	for _, workers := range []int{0, 1, 4} {
		r := &recorder{}
		if err := r.fs().SyncTree(t.Context(), filepath.Join(outside, "root"), workers); err != nil {
			t.Fatal(err)
		}
		slices.Sort(r.steps)
		slices.Sort(want)
		if diff := cmp.Diff(want, r.steps); diff != "" {
			t.Error(diff)
		}
	}
	for _, step := range []string{"sync", "syncdir"} {
		if err := (&recorder{fail: step}).fs().SyncTree(t.Context(), root, 3); !errors.Is(err, errFault) {
			t.Errorf("%s: got %v", step, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (durable.FS{}).SyncTree(ctx, root, 3); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context's end: %v", err)
	}
}
