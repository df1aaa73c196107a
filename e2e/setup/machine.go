package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgtender/pgtender/internal/filelock"
	"github.com/pgtender/pgtender/internal/servertest"
)

// lock keeps concurrent runs out of the same cache folder. It waits.
func (m *machine) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(m.cache, 0o755); err != nil {
		return nil, err
	}
	for waiting := false; ; waiting = true {
		file, err := filelock.Open(filepath.Join(m.cache, "setup.lock"), os.O_CREATE|os.O_RDWR, 0o644)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, filelock.ErrHeld) {
			return nil, err
		}
		if !waiting {
			fmt.Fprintln(m.out, "waiting for another setup run to end ...")
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// removeCache removes the cache folder, if it is one of ours.
func (m *machine) removeCache() error {
	switch _, err := os.Stat(filepath.Join(m.cache, "setup.lock")); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	fmt.Fprintf(m.out, "removing %s\n", m.cache)
	return os.RemoveAll(m.cache)
}

// checkReadable makes sure that the postgres user, as whom the servers run when
// we are root, can reach the cache folder.
func (m *machine) checkReadable() error {
	account, err := servertest.Account()
	if errors.As(err, new(user.UnknownUserError)) {
		return nil // no PostgreSQL was asked for; its package makes the user
	} else if err != nil || account == nil {
		return err
	}
	probe := exec.Command("/bin/true")
	probe.Dir = m.cache
	probe.SysProcAttr = &syscall.SysProcAttr{Credential: account}
	if err := probe.Run(); errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("the postgres user cannot enter %s, so it could not run what is put there\n"+
			"hint: set PGTENDER_CACHE to a folder it can enter, such as /var/cache/pgtender, or open the folders above it (chmod o+x)", m.cache)
	} else if err != nil {
		return fmt.Errorf("enter %s as the postgres user: %w", m.cache, err)
	}
	return nil
}

// run executes a program, in dir, and gives its combined output in the error if
// it ends badly.
func (m *machine) run(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var stdout, all bytes.Buffer
	cmd.Stdout, cmd.Stderr = tee{&stdout, &all}, &all
	if err := cmd.Run(); err != nil {
		args = slices.Clone(args)
		for i, arg := range args {
			if strings.Contains(arg, "\n") {
				args[i] = "..." // a script
			}
		}
		return "", fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, tail(all.String(), 40))
	}
	return stdout.String(), nil
}

// tee writes to both buffers.
type tee struct{ a, b *bytes.Buffer }

func (t tee) Write(p []byte) (int, error) {
	t.a.Write(p)
	return t.b.Write(p)
}

// tail gives the last lines of text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
