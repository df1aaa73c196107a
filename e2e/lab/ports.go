package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Ports are taken from below the range that the kernel gives to outgoing
// connections (ip_local_port_range, from 32768), so that a stopped server finds
// its port free again.
const firstPort, lastPort = 20000, 29999

// ports reserves loopback ports against other labs of the machine, by a locked
// file for each. Locks end with the process.
type ports struct{ locks []*os.File }

// take reserves one more port that nobody listens on.
func (p *ports) take() (int, error) {
	folder := filepath.Join(os.TempDir(), "pgtender-lab-ports")
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
		lock, err := os.OpenFile(filepath.Join(folder, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			continue // another user's
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil || !free(port) {
			lock.Close()
			continue
		}
		p.locks = append(p.locks, lock)
		return port, nil
	}
	return 0, fmt.Errorf("no free port between %d and %d in 200 tries", firstPort, lastPort)
}

func free(port int) bool {
	listener, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return false
	}
	listener.Close()
	return true
}

func (p *ports) release() {
	for _, lock := range p.locks {
		lock.Close()
	}
	p.locks = nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
