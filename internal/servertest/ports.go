package servertest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/pgtender/pgtender/internal/filelock"
)

// Ports are taken from below the range that the kernel gives to outgoing
// connections (ip_local_port_range, from 32768), so that a stopped server finds
// its port free again.
const firstPort, lastPort = 20000, 29999

// Ports reserves loopback ports against all others on the machine that do it
// this way, by a locked file for each: a port that is free at the moment is soon
// found free by the next, too. Locks end with the process. Not safe for
// concurrent use.
type Ports struct{ locks []*os.File }

// Take reserves one more port that nobody listens on.
func (p *Ports) Take() (int, error) {
	folder := filepath.Join(os.TempDir(), "pgtender-ports")
	// For every user, as the folder for temporary files itself.
	if err := os.Mkdir(folder, 0o777); err == nil {
		if err := os.Chmod(folder, 0o777|os.ModeSticky); err != nil {
			return 0, err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return 0, err
	}
	for range 200 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		lock, err := filelock.Open(filepath.Join(folder, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			continue // taken, or another user's
		}
		if !free(port) {
			lock.Close()
			continue
		}
		p.locks = append(p.locks, lock)
		return port, nil
	}
	return 0, fmt.Errorf("no free port between %d and %d in 200 tries", firstPort, lastPort)
}

func free(port int) bool {
	listener, err := net.Listen("tcp", Loopback(port))
	if err != nil {
		return false
	}
	listener.Close()
	return true
}

// Release gives all reserved ports back.
func (p *Ports) Release() {
	for _, lock := range p.locks {
		lock.Close()
	}
	p.locks = nil
}

// Loopback gives the address (host:port) of a port.
func Loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// FreeAddress gives a loopback address (host:port) that nobody listens on, and
// that is nobody else's until the test ends.
func FreeAddress(t testing.TB) string {
	t.Helper()
	var p Ports
	port, err := p.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Release)
	return Loopback(port)
}
