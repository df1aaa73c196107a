package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/pgtender/pgtender/internal/filelock"
	"github.com/pgtender/pgtender/internal/finding"
)

// ErrRunning means that another agent has the socket.
var ErrRunning = errors.New("another agent is running")

// Listen takes a socket. A lock on a file beside it keeps a second agent away,
// so that what a killed one left behind can be removed without asking.
func Listen(ctx context.Context, socket string) (net.Listener, func(), error) {
	dir := filepath.Dir(socket)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, finding.WithHint(fmt.Errorf("make the socket's folder: %w", err),
			"set agent.socket to a path that this user can write to, or give the service RuntimeDirectory=%s", filepath.Base(dir))
	}
	lock, err := filelock.Open(socket+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, filelock.ErrHeld) {
		err = ErrRunning
	}
	if err != nil {
		return nil, nil, fmt.Errorf("take socket %s: %w", socket, err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		lock.Close()
		return nil, nil, err
	}
	l, err := bind(ctx, socket)
	if err != nil {
		lock.Close()
		return nil, nil, err
	}
	return l, func() { l.Close(); lock.Close() }, nil
}

// bind makes the socket with no rights for others, under another name until it
// has none.
func bind(ctx context.Context, socket string) (net.Listener, error) {
	var lc net.ListenConfig
	temp := socket + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := lc.Listen(ctx, "unix", temp)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", socket, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(temp, 0o600); err == nil {
		err = os.Rename(temp, socket)
	}
	if err != nil {
		l.Close()
		os.Remove(temp)
		return nil, err
	}
	return l, nil
}
