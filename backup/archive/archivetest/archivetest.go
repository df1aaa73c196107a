// Package archivetest makes a test's own program an archive_command and a
// restore_command of a repository in a directory, which the test and the servers
// share although they may run as different users.
//
//	code := archivetest.Main(m, archivetest.Options{}) // in TestMain, which exits with it
//
//	store := archivetest.Dir(t)
//	program := archivetest.Install(t, store, system)   // ends in a blank
//	archive_command = program + "push %p"
//	restore_command = program + "get %f %p"            // or + " 3", a timeline
package archivetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// Options says how the commands work. The zero value will do.
type Options struct {
	CheckOwner bool // push looks at the owner object first
	Streamed   bool // get serves what a receiver has streamed too
	// More are further commands, by their first argument. They get the others.
	More map[string]func(ctx context.Context, r *repo.Repo, args []string) error
}

// What tells the program its repository.
const (
	storeVariable  = "ARCHIVE_TEST_STORE"
	systemVariable = "ARCHIVE_TEST_SYSTEM"
)

// Main runs the tests, or, where the environment names a repository, the command
// that the arguments name. It gives the exit code: of a get that failed 1 if
// the file is not in the archive, and else 126, which stops recovery; 1 of any
// other.
func Main(m *testing.M, o Options) int {
	dir := os.Getenv(storeVariable)
	if dir == "" {
		return m.Run()
	}
	err := o.run(context.Background(), dir, os.Args[1:])
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	if os.Args[1] == "get" && !errors.Is(err, archive.ErrAbsent) {
		return 126
	}
	return 1
}

func (o *Options) run(ctx context.Context, dir string, args []string) error {
	r, err := Open(ctx, dir, os.Getenv(systemVariable))
	if err != nil {
		return err
	}
	switch more, ok := o.More[args[0]]; {
	case ok:
		return more(ctx, r, args[1:])
	case args[0] == "push":
		return o.push(ctx, r, args[1])
	case args[0] == "get":
		return o.get(ctx, r, args[1:])
	}
	return fmt.Errorf("there is no command %q", args[0])
}

func (o *Options) push(ctx context.Context, r *repo.Repo, path string) error {
	push := archive.PushOptions{Path: path}
	if o.CheckOwner {
		push.CheckOwner = func(ctx context.Context) error {
			_, err := archive.CheckOwner(ctx, r, nil)
			return err
		}
	}
	_, err := archive.Push(ctx, r, push)
	return err
}

// get takes a segment, where to put it, and perhaps a timeline to follow.
func (o *Options) get(ctx context.Context, r *repo.Repo, args []string) error {
	var follow archive.LineageOptions
	if len(args) > 2 {
		if _, err := fmt.Sscan(args[2], &follow.Timeline); err != nil {
			return err
		}
	}
	return archive.Get(ctx, r, archive.GetOptions{
		Name: args[0], Dest: args[1], Streamed: o.Streamed,
		Lineage: func(ctx context.Context) (archive.Lineage, error) { return archive.ResolveLineage(ctx, r, follow) },
	})
}

// Dir makes an empty directory for a repository that everybody may write to, and
// removes it at the end of the test.
func Dir(t testing.TB) string {
	t.Helper()
	dir := pgtest.Dir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Open opens the repository in dir of the cluster "demo" with a system
// identifier.
func Open(ctx context.Context, dir, system string) (*repo.Repo, error) {
	id, err := pg.ParseSystemID(system)
	if err != nil {
		return nil, err
	}
	store, err := file.Open(ctx, file.Options{Dir: dir, Create: true, DirMode: 0o777, FileMode: 0o666})
	if err != nil {
		return nil, err
	}
	return repo.Open(store, repo.ClusterID{Scope: "demo", SystemID: id}, repo.Options{}), nil
}

// Install puts this program where the servers' user can run it, and gives what
// comes before its arguments: words without quotes, each followed by a blank.
func Install(t testing.TB, dir, system string) string {
	t.Helper()
	return fmt.Sprintf("env %s=%s %s=%s %s ", storeVariable, dir, systemVariable, system, pgtest.Install(t, "archivetest"))
}
